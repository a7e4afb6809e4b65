"""How much of its teacher a student holds, on the text of its run.

As `teacher_share`, but for one layer and the tokens of the run's own rows, so
that no treebank is needed. Ridge regression maps the student's last state to
the teacher's; it is fitted on training text and scored on held-out text.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.arrays import Batch
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.data import pipeline
from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.evals.probing.teacher_share import explained
from time_jax.evals.probing.word_states import DEV, FIT, TUNE
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.run import assembly, corpus, run_record
from time_jax.starts.least_squares import Moments

# Tokens that are read: some tens for each input of the map.
_TRAIN_TOKENS, _HELD_OUT_TOKENS = 32_768, 16_384
_TUNED = 5  # Every so many rows of training text, one is to tune.

Layers = Mapping[int, Float[np.ndarray, "N D"]]  # states by layer, from 1


@dataclasses.dataclass(frozen=True)
class Piece:
  """Some rows of text, and what the teacher makes of them.

  Attributes:
    part: FIT, TUNE or DEV.
    batch: the rows, on the devices.
    states: the teacher's states of the tokens, on the host.
  """

  part: int
  batch: Batch
  states: Layers


@dataclasses.dataclass(frozen=True)
class TaughtText:
  """The text on which students of a run are compared with their teacher.

  Attributes:
    pieces: its rows, those of each part among them.
    layer: the teacher's layer that is to be explained, from 1.
    mesh: devices that hold the rows.
  """

  pieces: Sequence[Piece]
  layer: int
  mesh: Mesh

  def share(self, student: OpenedEncoder) -> float:
    """Returns the percent of the teacher's variance that a student explains.

    Args:
      student: its parameters are on the same devices.

    Raises:
      UserError: its states are not finite.
    """
    last = student.config.num_layers

    def states(params: Params, batch: Batch) -> Mapping[int, Array]:
      return {last: student.hidden_states(params, batch)[-1]}

    read = _reader(states, self.mesh, student.name)
    return self._share(lambda piece: read(student.params, piece.batch)[last])

  def share_of_layer(self, layer: int) -> float:
    """Returns the same for one of the teacher's own layers, below that one.

    Args:
      layer: one whose states were read, too.
    """
    return self._share(lambda piece: piece.states[layer])

  def _share(
    self, inputs: Callable[[Piece], Float[np.ndarray, "N D"]]
  ) -> float:
    sums: dict[int, Moments] = {}
    for piece in self.pieces:
      x_ND, y_ND = inputs(piece), piece.states[self.layer]
      own = Moments.empty(x_ND.shape[1], y_ND.shape[1])
      own.add(x_ND, y_ND)
      sums[piece.part] = sums[piece.part] + own if piece.part in sums else own
    return float(explained(sums[FIT], sums[TUNE], sums[DEV])[0])


def read_text(
  config: ConfigDict,
  workdir: Path,
  mesh: Mesh,
  layer: int,
  others: Collection[int] = (),
) -> TaughtText:
  """Reads some rows of a run's text, and has its teacher compute their states.

  Args:
    config: config of the run.
    workdir: its folder.
    mesh: devices.
    layer: the teacher's layer that is to be explained, from 1.
    others: more of its layers, for `share_of_layer`.

  Raises:
    UserError: there is no held-out text, or too little training text; the
      teacher cannot be read, is not that of the run, or its states are not
      finite.
  """
  vocab_size = assembly.teacher_config(config).vocab_size
  text = corpus.open_corpus(config, workdir, vocab_size)
  parts = _parts(text, workdir, config.data.seq_len)
  own = config.copy_and_resolve_references()
  own.teacher.loader = "own"  # That of transformers hands out no states.
  teacher = assembly.make_teacher(own, (), mesh, {layer, *others})
  with CheckpointReader(workdir) as checkpoints:
    record = checkpoints.metadata(checkpoints.steps()[-1])
  run_record.check_inputs(record, {run_record.TEACHER: teacher.fingerprint})

  def states(params: Params, batch: Batch) -> Mapping[int, Array]:
    return teacher.targets(params, batch).states

  read = _reader(states, mesh, f"the teacher {config.teacher.path}")
  ways = sharding.batch_ways(mesh)
  batch_size = -(-config.eval.global_batch_size // ways) * ways
  pieces = [
    Piece(part, batch, read(teacher.params, batch))
    for part, rows in parts.items()
    for batch in corpus.evaluation_batches(rows, batch_size, mesh)
  ]
  return TaughtText(pieces, layer, mesh)


def _parts(
  text: corpus.Corpus, workdir: Path, seq_len: int
) -> dict[int, pipeline.Rows]:
  """Returns the rows to fit, to tune and to score."""
  if text.validation is None:
    raise UserError(
      f"the run in {workdir} has no held-out text to compare students with "
      "their teacher on; expected data.validation in its config."
    )
  if len(text.train) < _TUNED:
    raise UserError(
      f"the training text of {workdir} has {len(text.train)} rows; expected at "
      f"least {_TUNED}, to fit a map with."
    )
  train = _spread(len(text.train), max(_TUNED, _TRAIN_TOKENS // seq_len))
  held_out = _spread(len(text.validation), max(1, _HELD_OUT_TOKENS // seq_len))
  tune = train[_TUNED - 1 :: _TUNED]
  fit = sorted({*train}.difference(tune))
  return {
    FIT: pipeline.SomeRows(text.train, fit),
    TUNE: pipeline.SomeRows(text.train, tune),
    DEV: pipeline.SomeRows(text.validation, held_out),
  }


def _spread(count: int, wanted: int) -> list[int]:
  """Returns so many of `count` indices, or all, evenly spaced."""
  number = min(count, wanted)
  return [i * count // number for i in range(number)]


def _reader(
  states: Callable[[Params, Batch], Mapping[int, Array]], mesh: Mesh, name: str
) -> Callable[[Params, Batch], Layers]:
  """Returns a function that computes the states of the tokens of a batch."""

  def compute(params: Params, batch: Batch) -> Any:
    return states(params, batch), batch.segment_ids > 0

  compiled = jax.jit(compute, out_shardings=NamedSharding(mesh, P()))

  def read(params: Params, batch: Batch) -> Layers:
    with sharding.use_mesh(mesh):
      found, real = jax.device_get(compiled(params, batch))
    of_tokens = {n: x[real].astype(np.float32) for n, x in found.items()}
    if not all(np.isfinite(x).all() for x in of_tokens.values()):
      raise UserError(
        f"the hidden states of {name} hold NaN or infinity, so a student "
        "cannot be compared with its teacher; expected finite weights."
      )
    return of_tokens

  return read
