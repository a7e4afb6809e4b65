"""`load`: the folder of an export as a function of items."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

from time_jax.core.errors import UserError, kind_and_reason
from time_jax.serve.embedder import Embedder
from time_jax.serve.folder import VECTORS, Folder, read
from time_jax.serve.parser import Parser
from time_jax.serve.reader import Reader
from time_jax.serve.rows import Beat
from time_jax.serve.splitter import Splitter
from time_jax.serve.tagger import Tagger


class Model(Protocol):
  """A model; any number of threads may call it."""

  example: Any  # an item

  def __call__(self, items: Sequence[Any], beat: Beat = ...) -> list[Any]:
    """Returns what is found for each item, as values that JSON has.

    Args:
      items: see the class of the task.
      beat: called before each part of the computation, which it may end by
        raising.

    Raises:
      InputError: an item cannot be read.
    """
    ...


_KINDS = {
  "ner": Tagger,
  "qa": Reader,
  "split": Splitter,
  "ud": Parser,
  VECTORS: Embedder,
}


def open_model(opened: Folder) -> Model:
  """Opens an export that was read; see `load`."""
  if opened.task not in _KINDS:
    raise UserError(
      f"{opened.path} is of task {opened.task!r}; expected one of "
      f"{', '.join(_KINDS)}."
    )
  try:
    model = _KINDS[opened.task](opened)
    model([model.example])
  except UserError:
    raise
  except Exception as error:  # Anything may stand in the files.
    raise UserError(
      f"the files in {opened.path} do not fit each other "
      f"({kind_and_reason(error)}); expected them as `time-jax export --onnx` "
      "wrote them: copy the folder once more, or export again."
    ) from error
  return model


def load(folder: str | os.PathLike[str], *, int8: bool = False) -> Model:
  """Opens an export that has ONNX files, and computes an example.

  Args:
    folder: what `time-jax export --onnx` wrote: of a model of `finetune ner`,
      see `Tagger`, of `qa`, see `Reader`, of `ud`, see `Parser`, of `split`,
      see `Splitter`; or of a student, see `Embedder`.
    int8: whether matrices are in 8 bits: a quarter of the size, and faster.

  Returns:
    The model. What it finds for an item does not depend on the items beside it,
    except for the rounding of float32.

  Raises:
    UserError: it is no such folder, or onnxruntime is not installed.
    RunError: what is returned was called in a process that was forked later.
  """
  return open_model(read(os.fspath(folder), int8))
