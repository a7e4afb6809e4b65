"""A checkpoint of a run -> the student in it."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax.numpy as jnp

from time_jax import assembly, choose, sharding
from time_jax.checkpoint import Checkpoints
from time_jax.errors import UserError
from time_jax.hf import tokenizer
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params


@dataclasses.dataclass(frozen=True)
class Student:
  """What a checkpoint holds of a student.

  Attributes:
    step: of the checkpoint.
    config: its shape.
    params: float32; their average, where the run keeps one.
    record: the checkpoint's metadata: run, versions, hardware.
    words: hash of its tokenizer's vocabulary; empty: it has none.
  """

  step: int
  config: BertConfig
  params: Params
  record: dict[str, Any]
  words: str = ""

  @property
  def encoder(self) -> Encoder:
    """The complete network, computing in float32."""
    return Encoder(self.config, self.config.num_layers, jnp.dtype("float32"))

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the run's record and the step: equal ones, equal weights."""
    content = json.dumps([self.record.get("run"), self.step], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def read_student(workdir: pathlib.Path, step: int | None = None) -> Student:
  """Reads a checkpoint onto the devices of this machine.

  Args:
    workdir: of a run of `distill`, or what `import` made.
    step: of the checkpoint; by default the chosen one, else the newest.

  Raises:
    UserError: there is no such checkpoint.
  """
  config = assembly.read_run(workdir)
  shape = assembly.read_shape(workdir, config)
  encoder = Encoder(shape, shape.num_layers, jnp.dtype("float32"))
  boxed = abstract_params(encoder)
  with Checkpoints.read_only(workdir) as checkpoints:
    steps = checkpoints.steps()
    chosen = step if step is not None else choose.read_choice(workdir)
    if not steps:
      raise UserError(f"no finished checkpoint in {workdir}/checkpoints.")
    if chosen is not None and chosen not in steps:
      known = ", ".join(map(str, steps))
      raise UserError(
        f"no checkpoint of step {chosen} in {workdir}; there are: {known}; "
        "give --step, or run `time_jax choose` again."
      )
    chosen = steps[-1] if chosen is None else chosen
    abstract = sharding.abstract(boxed, sharding.make_mesh())
    params = checkpoints.student(chosen, abstract)
    record = checkpoints.metadata(chosen)
  words = ""
  if (workdir / "tokenizer").is_dir():
    words = tokenizer.words_sha256(workdir / "tokenizer", shape.vocab_size)
  return Student(chosen, shape, params, record, words)
