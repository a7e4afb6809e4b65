"""Reads the student in a checkpoint of a run."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from typing import Any

import jax

from time_jax.checkpoint import layout
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import GoneError, UserError
from time_jax.core.storage.paths import Path
from time_jax.hf import model_identity, tokenizer
from time_jax.hf.model_identity import Identity
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params
from time_jax.parallel import sharding
from time_jax.run import choose, first_weights, imported_model, run_files

_TRIES = 3
DROP_LAST = "drop_last"  # in the record of a student that ends a layer earlier


@dataclasses.dataclass(frozen=True)
class Student:
  """A student of a checkpoint.

  Attributes:
    step: step of the checkpoint.
    config: sizes of the student.
    params: its parameters, float32; their average, where the run keeps one.
    record: the checkpoint's metadata: run, versions, hardware.
    words: hash of the vocabulary that it was trained with; empty: not known.
    tokenizer: result of `model_identity.tokenizer_sha256`.
  """

  step: int
  config: BertConfig
  params: Params
  record: dict[str, Any]
  words: str = ""
  tokenizer: str = ""

  @property
  def encoder(self) -> Encoder:
    """Returns the complete network, which computes in float32."""
    return Encoder(self.config, self.config.num_layers)

  @functools.cached_property
  def identity(self) -> Identity:
    """Returns which model it is.

    Earlier versions told it by the run's record and the step.
    """
    run = self.record.get("run")
    content = json.dumps([run, self.step], sort_keys=True)
    arrays = model_identity.arrays_sha256(self.config, self.params)
    return Identity(
      model_identity.of_student(self.config, arrays, self.tokenizer),
      hashlib.sha256(content.encode()).hexdigest(),
      # The record of a run does not say what else it began with.
      legacy_is_unique="imported" not in self.record
      and DROP_LAST not in self.record
      and not first_weights.from_another_model((run or {}).get("student", {})),
    )

  def without_last(self) -> "Student":
    """Returns the student that ends with the layer below its last one.

    The loss does not see what comes after the projections of the last layer.
    All that is left was trained by it, but for the pooler, which stays as it
    is. The record says that a layer was dropped.

    Raises:
      UserError: there is but one layer.
    """
    left = self.config.num_layers - 1
    if not left:
      raise UserError(
        "the student has one layer, so that none would be left without its "
        "last; expected at least two, or no --drop_last."
      )
    params = dict(self.params)
    below = params.pop("layers")
    params["last"] = jax.tree.map(lambda x: x[-1], below)
    if left > 1:
      params["layers"] = jax.tree.map(lambda x: x[:-1], below)
    return dataclasses.replace(
      self,
      config=dataclasses.replace(self.config, num_layers=left),
      params=params,
      record=self.record | {DROP_LAST: True},
    )


def read_student(workdir: Path, step: int | None = None) -> Student:
  """Reads a student onto the devices of this machine.

  Args:
    workdir: folder of a run of `distill`, or one that `import` made.
    step: step of the checkpoint; None: the chosen one, else the newest.

  Raises:
    UserError: there is no such checkpoint.
  """
  for _ in range(_TRIES):
    with contextlib.suppress(GoneError):  # A running `distill` deleted it.
      return _read_student(workdir, step)
  return _read_student(workdir, step)


def _read_student(workdir: Path, step: int | None) -> Student:
  config = run_files.read_config(workdir)
  shape = run_files.read_shape(workdir, config)
  with CheckpointReader(workdir) as checkpoints:
    steps = checkpoints.steps()
    chosen = step if step is not None else choose.read_choice(workdir)
    if not steps:
      raise UserError(f"no finished checkpoint in {layout.folder(workdir)}.")
    if chosen is not None and chosen not in steps:
      known = ", ".join(map(str, steps))
      raise UserError(
        f"no checkpoint of step {chosen} in {workdir}; there are: {known}; "
        "give --step, or run `time_jax choose` again."
      )
    chosen = steps[-1] if chosen is None else chosen
    shape = imported_model.shape_of(shape, checkpoints, chosen)
    boxed = abstract_params(Encoder(shape, shape.num_layers))
    abstract = sharding.abstract(boxed, sharding.make_mesh())
    params = checkpoints.student(chosen, abstract)
    record = checkpoints.metadata(chosen)
  own = workdir / "tokenizer"
  words = (record.get("imported") or {}).get("words", "")
  if own.is_dir():
    words = tokenizer.vocabulary_sha256(own, shape.vocab_size)
  tokens = model_identity.tokenizer_sha256(own, shape.vocab_size)
  return Student(chosen, shape, params, record, words, tokens)
