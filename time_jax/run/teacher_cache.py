"""A teacher that is asked about each row once: what it says is kept on disk.

The first pass over the text writes what the teacher hands out of its rows,
projections and perhaps hidden states; later passes, and other runs of the same
teacher, layer and text, read them. A student learns of the numbers that the
disk has, also where they were computed just now, so that the result does not
depend on which rows were there.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from numpy.typing import NDArray

from time_jax.core.arrays import Batch, Qkv, Targets
from time_jax.core.display import byte_size
from time_jax.core.errors import UserError
from time_jax.core.notes import say
from time_jax.core.storage.paths import local_path
from time_jax.data.projection_store import ProjectionStore, record_size
from time_jax.models.family import Params, Teacher
from time_jax.parallel import host_collectives, sharding
from time_jax.run.corpus import Corpus
from time_jax.step import memory
from time_jax.step.cached_targets import make_fill

_STATE = "state"  # what hidden states are called in their stores
_WAITING = 2  # batches whose targets stay on the devices until they are written


@dataclasses.dataclass(frozen=True)
class Known:
  """What the disk has of the rows of a batch.

  Attributes:
    indices: the rows that this process reads.
    targets: what is learnt of the teacher; of missing rows it means nothing.
    hits: which rows are there.
  """

  indices: Sequence[int]
  targets: Targets
  hits: NDArray[np.bool_]


class NoCache:
  """Stands for a cache where none is wanted."""

  def read(self, indices: Sequence[int]) -> None:
    """Returns None: nothing is known."""
    del indices

  def fill(self, teacher_params: Params, batch: Batch, known: None) -> None:
    """Returns None: the step asks the teacher itself."""
    del teacher_params, batch, known

  def close(self) -> None:
    """Does nothing."""


class TeacherCache:
  """What a teacher hands out of a run's training rows, on disk.

  Each process reads and writes the rows that its devices hold.
  """

  def __init__(
    self,
    projections: dict[int, ProjectionStore],
    states: dict[int, ProjectionStore],
    kept: int,
    teacher: Teacher,
    mesh: Mesh,
    train: ConfigDict,
  ) -> None:
    """Prepares what fills in missing rows; nothing is compiled yet.

    Args:
      projections: what is kept of them, for each of the teacher's layers.
      states: the same of hidden states.
      kept: rows 0 ... kept - 1 have a place in the stores.
      teacher: the teacher.
      mesh: devices of the run.
      train: section `train` of the run's config.
    """
    self._projections, self._states = projections, states
    self._kept, self._mesh = kept, mesh
    self._size: int = train.global_batch_size
    self._fill = make_fill(teacher, mesh, train.accumulation)
    self._compiled = False
    self._writer = concurrent.futures.ThreadPoolExecutor(1, "teacher cache")
    self._writes: collections.deque[concurrent.futures.Future[None]] = (
      collections.deque()
    )

  def read(self, indices: Sequence[int]) -> Known:
    """Reads what the disk has of some rows.

    Args:
      indices: the rows of a batch that this process's devices hold, in order.
    """
    hits = np.ones(len(indices), np.bool_)

    def read(store: ProjectionStore) -> Any:  # Arrays on the host.
      nonlocal hits
      arrays, there = store.read(indices)
      hits &= there
      return arrays

    targets = Targets(
      {n: Qkv(**read(store)) for n, store in self._projections.items()},
      {n: read(store)[_STATE] for n, store in self._states.items()},
    )
    return Known(indices, targets, hits)

  def fill(self, teacher_params: Params, batch: Batch, known: Known) -> Targets:
    """Returns the targets of a batch; those that were missing get written.

    All processes must call it, in the same order.

    Args:
      teacher_params: the teacher's parameters.
      batch: the global batch.
      known: what `read` returned of it, in this process.

    Raises:
      UserError: in the first call, if the teacher does not fit into memory.
    """
    # Not ahead of time: a device has room for a few batches of targets.
    targets, hits = jax.tree.map(
      lambda x: sharding.join_rows(x, self._mesh, self._size),
      (known.targets, known.hits),
    )
    arguments = teacher_params, batch, targets, hits
    with sharding.use_mesh(self._mesh):
      if not self._compiled:
        memory.compile_step(self._fill.lower(*arguments), self._mesh)
        self._compiled = True
      targets = self._fill(*arguments)
    missing = np.flatnonzero(~known.hits).tolist()
    places = [i for i in missing if known.indices[i] < self._kept]
    if places:
      indices = [known.indices[i] for i in places]
      self._writes.append(
        self._writer.submit(self._write, indices, places, targets)
      )
    while len(self._writes) > _WAITING:
      self._writes.popleft().result()
    return targets

  def _write(
    self, indices: list[int], places: list[int], targets: Targets
  ) -> None:
    """Writes rows of a batch, which the devices may be computing still."""

    def write(store: ProjectionStore, arrays: dict[str, Any]) -> None:
      held = {n: sharding.held_rows(x)[places] for n, x in arrays.items()}
      store.write(indices, held)

    for layer, store in self._projections.items():
      write(store, vars(targets.projections[layer]))
    for layer, store in self._states.items():
      write(store, {_STATE: targets.states[layer]})

  def close(self) -> None:
    """Writes what is waiting; no method may be called after that."""
    self._writer.shutdown()
    for problem in filter(None, (w.exception() for w in self._writes)):
      say(f"teacher.cache: the last rows were not written: {problem}.")
    for store in (*self._projections.values(), *self._states.values()):
      store.close()


def open_cache(
  config: ConfigDict, teacher: Teacher, rows: Corpus, mesh: Mesh
) -> TeacherCache | NoCache:
  """Opens the cache that a config names, and says what it takes on disk.

  Args:
    config: config of the run.
    teacher: the teacher of all its students.
    rows: its text, of which the training rows are kept.
    mesh: its devices.

  Raises:
    UserError: the folder cannot be used.
  """
  t, size = config.teacher, config.train.global_batch_size
  if not t.cache:
    return NoCache()
  held = host_collectives.all_gather(str(len(sharding.local_rows(mesh, size))))
  if sum(map(int, held)) > size:
    # They would have to agree on what each of them has found of a row.
    raise UserError(
      f"teacher.cache={t.cache!r} cannot be used where several processes hold "
      "the same rows of a batch; expected a mesh.tensor that stays within a "
      "process, or no teacher.cache."
    )
  seq_len, count = config.data.seq_len, len(rows.train)
  shapes = {name: (seq_len, width) for name, width in teacher.widths.items()}
  of_state = {_STATE: (seq_len, teacher.hidden_size)}
  dtype = jnp.dtype(t.cache_dtype or t.dtype)
  size = record_size(shapes, dtype) * len(teacher.layers)
  size += record_size(of_state, dtype) * len(teacher.states)
  kept = min(count, int(t.cache_gb * 1e9 // size)) if t.cache_gb else count
  identity = {
    "teacher": teacher.fingerprint,
    "architecture": t.architecture.to_dict(),  # Of random weights it is all.
    "computed in": t.dtype,
    **{name: t[name] for name in ("loader", "capture", "relative_layout")},
    "rows": rows.content,
    "number of rows": count,
  }
  folder = local_path(t.cache)
  projections = {
    layer: ProjectionStore(
      folder, {"layer": layer, **identity}, shapes, dtype, kept
    )
    for layer in teacher.layers
  }
  states = {
    layer: ProjectionStore(
      folder, {"state of layer": layer, **identity}, of_state, dtype, kept
    )
    for layer in teacher.states
  }
  if jax.process_index() == 0:
    say(_described(kept, count, size, seq_len, config.train.accumulation))
  return TeacherCache(projections, states, kept, teacher, mesh, config.train)


def _described(
  kept: int, count: int, size: int, seq_len: int, accumulation: int
) -> str:
  """Returns what a cache takes on disk, `size` bytes for each row kept."""
  token = f"{byte_size(size / seq_len)} a token"
  if kept == count:
    return (
      f"teacher.cache: {byte_size(kept * size)} for {count:,} rows ({token}), "
      "all of them"
    )
  parts = (
    "one of them in a step has the teacher compute all rows of it: raise "
    "train.accumulation, so that it computes fewer"
    if accumulation == 1
    else "the rest is computed"
  )
  return (
    f"teacher.cache: {byte_size(kept * size)} for the first {kept:,} of "
    f"{count:,} rows ({token}); {parts}"
  )
