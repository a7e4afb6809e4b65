"""A checkpoint of a run -> the student in it."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import uuid
from typing import Any

import jax
import jax.numpy as jnp

from time_jax.checkpoint import checksums
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import DAMAGED_JSON, GoneError, UserError
from time_jax.core.storage import atomic_file, lease
from time_jax.hf import model_hash, tokenizer
from time_jax.hf.model_hash import Identity
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params
from time_jax.parallel import sharding
from time_jax.run import assembly, choose, imported_model, initial

_TRIES = 3
KEPT = "identity.json"  # beside the seal of a checkpoint


@dataclasses.dataclass(frozen=True)
class Student:
  """What a checkpoint holds of a student.

  Attributes:
    step: of the checkpoint.
    config: its shape.
    params: float32; their average, where the run keeps one.
    record: the checkpoint's metadata: run, versions, hardware.
    words: hash of the vocabulary that it was trained with; empty: not known.
    arrays: see `identity.arrays_sha256`; empty: to be computed.
    tokenizer: see `identity.tokenizer_sha256`.
  """

  step: int
  config: BertConfig
  params: Params
  record: dict[str, Any]
  words: str = ""
  arrays: str = ""
  tokenizer: str = ""

  @property
  def encoder(self) -> Encoder:
    """The complete network, computing in float32."""
    return Encoder(self.config, self.config.num_layers, jnp.dtype("float32"))

  @functools.cached_property
  def identity(self) -> Identity:
    """Which model it is; before, the run's record and the step said so."""
    run = self.record.get("run")
    content = json.dumps([run, self.step], sort_keys=True)
    arrays = self.arrays or model_hash.arrays_sha256(self.config, self.params)
    return Identity(
      model_hash.of_student(self.config, arrays, self.tokenizer),
      hashlib.sha256(content.encode()).hexdigest(),
      # The record of a run does not say what else it began with.
      proves="imported" not in self.record
      and not initial.from_elsewhere((run or {}).get("student", {})),
    )


def read_student(workdir: pathlib.Path, step: int | None = None) -> Student:
  """Reads a checkpoint onto the devices of this machine.

  Args:
    workdir: of a run of `distill`, or what `import` made.
    step: of the checkpoint; by default the chosen one, else the newest.

  Raises:
    UserError: there is no such checkpoint.
  """
  for _ in range(_TRIES):
    with contextlib.suppress(GoneError):  # By a run that goes on meanwhile.
      return _read_student(workdir, step)
  return _read_student(workdir, step)


def _read_student(workdir: pathlib.Path, step: int | None) -> Student:
  config = assembly.read_run(workdir)
  shape = assembly.read_shape(workdir, config)
  with CheckpointReader(workdir) as checkpoints:
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
    shape = imported_model.shape_of(shape, checkpoints, chosen)
    encoder = Encoder(shape, shape.num_layers, jnp.dtype("float32"))
    boxed = abstract_params(encoder)
    abstract = sharding.abstract(boxed, sharding.make_mesh())
    params = checkpoints.student(chosen, abstract)
    record = checkpoints.metadata(chosen)
    place = checkpoints.folder(chosen)
    item = checkpoints.student_item(chosen)
  sealed = checksums.digest_of_item(place, item)
  arrays = _arrays(workdir, place, sealed, shape, params)
  own = workdir / "tokenizer"
  words = (record.get("imported") or {}).get("words", "")
  if own.is_dir():
    words = tokenizer.words_sha256(own, shape.vocab_size)
  spoken = model_hash.tokenizer_sha256(own, shape.vocab_size)
  return Student(chosen, shape, params, record, words, arrays, spoken)


def _arrays(
  workdir: pathlib.Path,
  folder: pathlib.Path,
  sealed: str,
  shape: BertConfig,
  params: Params,
) -> str:
  """The hash of a checkpoint's arrays, which is computed once and kept there.

  Args:
    workdir: of the run. While another process writes there, nothing is kept:
      it may be deleting this checkpoint, which a new file would interrupt.
    folder: of the checkpoint; nothing is kept where it cannot be written to.
    sealed: what the seal says of the arrays; empty: nothing, so no file can
      say that it is of these arrays.
    shape: of the student.
    params: of the student.
  """
  with contextlib.suppress(OSError, *DAMAGED_JSON):
    kept = json.loads((folder / KEPT).read_text(encoding="utf-8"))
    if sealed and kept == _kept(kept["arrays"], sealed):
      return kept["arrays"]
  arrays = model_hash.arrays_sha256(shape, params)
  if sealed and jax.process_index() == 0:
    with contextlib.suppress(OSError):
      if not lease.held_by_another(workdir / lease.RUN):
        _keep(folder / KEPT, _kept(arrays, sealed))
  return arrays


def _keep(path: pathlib.Path, content: dict[str, str]) -> None:
  """Writes a file that several readers may write at the same time."""
  fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
  try:
    text = atomic_file.as_json(content, indent=2) + "\n"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
  finally:
    fresh.unlink(missing_ok=True)


def _kept(arrays: str, sealed: str) -> dict[str, str]:
  check = hashlib.sha256(f"{arrays} {sealed}".encode()).hexdigest()
  return {"arrays": arrays, "sealed": sealed, "check": check}
