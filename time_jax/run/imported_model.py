"""A workdir that `import` made: what is known of the model in it."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.hf import files
from time_jax.models.bert import BertConfig
from time_jax.telemetry import history

_MARK = "imported.json"
_FACTS = ("from", "sha256", "identity", "words")


def is_imported(checkpoints: CheckpointReader) -> bool:
  """Whether nothing but what `import` put there is in a workdir."""
  return checkpoints.steps() == [0]


def origin(checkpoints: CheckpointReader) -> dict[str, Any]:
  """What later checkpoints say of the one that was imported, if one was."""
  if 0 not in checkpoints.steps():
    return {}
  imported = checkpoints.metadata(0)["imported"]
  return {"imported": {n: imported[n] for n in _FACTS if n in imported}}


def mark_imported(workdir: pathlib.Path, imported: Mapping[str, Any]) -> None:
  """Notes that a workdir's first weights were imported.

  With this, a workdir whose checkpoints are gone is not taken for a new one.

  Args:
    workdir: with a checkpoint of step 0.
    imported: what that checkpoint says of itself; empty: nothing is noted.
  """
  if imported and not (workdir / _MARK).exists():
    facts = {n: imported[n] for n in _FACTS if n in imported}
    atomic_file.write_json(workdir / _MARK, facts)


def check_not_lost(workdir: pathlib.Path, found: Collection[Any]) -> None:
  """Refuses to begin anew where a student was imported, and is gone.

  Args:
    workdir: of a run.
    found: its checkpoints.

  Raises:
    UserError: there is none, and there was one.
  """
  if found:
    return
  name = ""
  if (workdir / _MARK).exists():
    name = files.read_json(workdir / _MARK).get("from", "a model")
  # Earlier versions of `import` left no such file; but a run writes its config
  # only after it has noted its start.
  elif (workdir / "config.json").exists() and not history.starts(workdir):
    name = "a model"
  if name:
    raise UserError(
      f"{workdir} was made by `time_jax import` of {name}, but its checkpoint "
      "of step 0, which held the weights, is gone, and a run here would begin "
      "with random ones. Put checkpoints/0 back, or import the model again, "
      "into a new --workdir."
    )


def shape_of(
  shape: BertConfig, checkpoints: CheckpointReader, step: int
) -> BertConfig:
  """The shape of the student in a checkpoint.

  A run may use fewer positions than the student had that was imported.

  Args:
    shape: of the workdir.
    checkpoints: in it.
    step: one of them.
  """
  return dataclasses.replace(shape, max_positions=checkpoints.positions(step))


def words(workdir: pathlib.Path) -> str:
  """Hash of the vocabulary of a model that came without its tokenizer.

  Args:
    workdir: that `import` made; the hash is empty where nothing says it.
  """
  mark = workdir / _MARK
  return files.read_json(mark).get("words", "") if mark.exists() else ""
