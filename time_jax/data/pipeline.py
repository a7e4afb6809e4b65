"""Prepared rows to batches: `batch_at(step)` is a pure function.

The global batch of a step depends on the prepared rows, the seed, the step and
the global batch size alone, not on the number of processes nor on what was read
before. So the position in the data, as a checkpoint keeps it, is the step.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import grain
import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from time_jax.core import errors
from time_jax.data import integrity
from time_jax.data.ahead import run_ahead
from time_jax.data.manifest import NAME, load_manifest
from time_jax.data.tf_example import FEATURES

Row = dict[str, NDArray[np.int32]]
"""tokens and segment_ids, each [seq_len]; in a batch [rows, seq_len]."""

T = TypeVar("T")

_PAUSES = (0.5, 5.0)  # seconds before rows are read a second and a third time
# What the system, and ArrayRecord, say of a file that cannot be read.
_UNREADABLE = (OSError, RuntimeError)


@runtime_checkable
class Rows(Protocol):
  """Rows of tokens with random access."""

  def __len__(self) -> int:
    """Returns the number of rows."""
    ...

  def __getitems__(self, indices: Sequence[int]) -> list[Row]:
    """Returns the rows at these indices, in this order."""
    ...


def open_rows(folder: str | os.PathLike[str], split: str) -> Rows:
  """Opens the rows of a split after comparing the sizes of its files.

  Args:
    folder: a folder of prepared rows.
    split: name of the split.

  Raises:
    UserError: there is no such split, or its files are damaged.
  """
  manifest = load_manifest(folder)
  if split not in manifest.splits:
    raise errors.UserError(
      f"{str(folder)!r} has no split {split!r}; expected one of "
      f"{', '.join(manifest.splits)}"
    )
  integrity.check_sizes(folder, manifest.splits[split].shards)
  return _PreparedRows(os.fspath(folder), split)


class _PreparedRows:
  """Rows on disk; a read that fails is repeated before it is an error."""

  def __init__(self, folder: str, split: str) -> None:
    self._folder, self._split = folder, split
    try:
      self._source: Any = self._open()
    except OSError as error:
      raise errors.UserError(
        f"the rows in {folder!r} are damaged: {error}; expected them as "
        "`prepare` wrote them; copy them again, or run `prepare` with a new "
        "folder"
      ) from error
    self._length = len(self._source)

  def _open(self) -> Any:
    try:
      return tfds.data_source(NAME, data_dir=self._folder, split=self._split)
    except Exception as error:  # TFDS's have no common class.
      raise OSError(str(error)) from error

  def __len__(self) -> int:
    return self._length

  def __getitems__(self, indices: Sequence[int]) -> list[Row]:
    problem = None
    for pause in (0.0, *_PAUSES):
      time.sleep(pause)
      try:
        self._source = self._source or self._open()
        return self._source.__getitems__(indices)
      except _UNREADABLE as error:
        self._source, problem = None, error
      except Exception:
        # The files were read: either TFDS was told another form of rows, or
        # the fault is in the program, of which the files say nothing.
        integrity.check_metadata(self._folder, load_manifest(self._folder))
        raise
    # Tell files that are no longer what was written from storage that fails.
    manifest = load_manifest(self._folder)
    shards = manifest.splits[self._split].shards
    ends = np.cumsum([shard.rows for shard in shards])
    places = np.searchsorted(ends, np.asarray(indices), side="right")
    read = [shards[i] for i in sorted({*places.tolist()}) if i < len(shards)]
    integrity.check_rows(self._folder, manifest, read)
    raise errors.RestartableError(
      f"rows in {self._folder!r} cannot be read, although they are what was "
      f"written: {' '.join(str(problem).split())}; start the same command again"
    ) from problem


@dataclasses.dataclass(frozen=True)
class SyntheticRows:
  """Full rows of random tokens, for speed and memory work without text.

  Attributes:
    num_rows: number of rows.
    seq_len: tokens in a row, one segment.
    vocab_size: each token is below it.
    seed: decides the tokens, together with the index of the row.
  """

  num_rows: int
  seq_len: int
  vocab_size: int
  seed: int = 0

  def __len__(self) -> int:
    """Returns the number of rows."""
    return self.num_rows

  def __getitems__(self, indices: Sequence[int]) -> list[Row]:
    """Returns the rows at these indices, in this order."""
    return [self._row(index) for index in indices]

  def _row(self, index: int) -> Row:
    random = np.random.default_rng((self.seed, index))
    tokens = random.integers(self.vocab_size, size=self.seq_len, dtype=np.int32)
    return {"tokens": tokens, "segment_ids": np.ones(self.seq_len, np.int32)}


@dataclasses.dataclass(frozen=True)
class HeldRows:
  """A few rows in memory.

  Attributes:
    rows: the rows.
  """

  rows: Sequence[Row]

  def __len__(self) -> int:
    """Returns the number of rows."""
    return len(self.rows)

  def __getitems__(self, indices: Sequence[int]) -> list[Row]:
    """Returns the rows at these indices, in this order."""
    return [self.rows[index] for index in indices]


@dataclasses.dataclass(frozen=True)
class SomeRows:
  """Some of other rows.

  Attributes:
    rows: the others.
    indices: which of them, in this order.
  """

  rows: Rows
  indices: Sequence[int]

  def __len__(self) -> int:
    """Returns the number of rows."""
    return len(self.indices)

  def __getitems__(self, indices: Sequence[int]) -> list[Row]:
    """Returns the rows at these indices, in this order."""
    return self.rows.__getitems__([self.indices[i] for i in indices])


class BatchSource:
  """The training batches, or the part of them that one process reads.

  The batch after s steps takes the rows s * B ... s * B + B - 1 of an endless
  order in which each epoch holds every row once, newly shuffled.
  """

  def __init__(
    self,
    rows: Rows,
    *,
    seed: int,
    global_batch_size: int,
    wanted: Sequence[int] | None = None,
  ) -> None:
    """Prepares the order of the rows; nothing is read yet.

    Args:
      rows: the rows of all processes.
      seed: decides the order.
      global_batch_size: rows of all processes in a step, B.
      wanted: which rows of each global batch to read: ascending, from 0 to
        B - 1; those of two processes may overlap. None is all of them.
    """
    self._wanted = _checked_rows(wanted, global_batch_size)
    self._rows = rows
    self._global_batch_size = global_batch_size
    order: Any = grain.MapDataset.range(len(rows)).seed(seed).shuffle()
    self._order = order.repeat()

  def indices_at(self, step: int) -> list[int]:
    """Returns which rows are read at a step, in the order of the batch."""
    start = step * self._global_batch_size
    return [self._order[start + i] for i in self._wanted]

  def batch_at(self, step: int) -> Row:
    """Returns the wanted rows of the global batch of a step.

    Args:
      step: number of steps done before, so that the first step takes the batch
        of 0; batches need not be asked for in order.

    Returns:
      tokens and segment_ids, int32 [wanted rows, seq_len].
    """
    return _stack(self._rows.__getitems__(self.indices_at(step)))


def sequential_batches(
  rows: Rows,
  batch_size: int,
  *,
  wanted: Sequence[int] | None = None,
) -> Iterator[Row]:
  """Yields every row once, in order, for evaluation.

  All batches have the same shape: the last one is filled up with rows without
  a segment (all zero), which hold no document.

  Args:
    rows: the rows of all processes.
    batch_size: rows of all processes in a batch.
    wanted: which rows of each batch to read, as for `BatchSource`.

  Yields:
    tokens and segment_ids, int32 [wanted rows, seq_len].
  """
  wanted = _checked_rows(wanted, batch_size)
  for start in range(0, len(rows), batch_size):
    indices = [start + i for i in wanted]
    present = [i for i in indices if i < len(rows)]
    # Where all wanted rows lie beyond the last, one still gives the shape.
    batch = _stack(rows.__getitems__(present or [start]))
    for name, values in batch.items():
      values[len(present) :] = 0
      missing = len(indices) - len(values)
      batch[name] = np.pad(values, ((0, missing), (0, 0)))
    yield batch


def prefetch(
  batch_at: Callable[[int], Any],
  start: int,
  stop: int,
  *,
  depth: int,
  put: Callable[[Any], T],
) -> Generator[T, None, None]:
  """Yields `put(batch_at(step))` for each step, computed ahead in a thread.

  Args:
    batch_at: what to compute, such as `BatchSource.batch_at`.
    start: the first step.
    stop: one past the last step.
    depth: how many results wait, one or more; one more is being computed.
    put: what to do with each, such as the transfer to the devices.

  Yields:
    The results in the order of the steps. An exception in the thread is
    raised here; the thread ends when the iterator is closed.
  """
  steps = range(start, stop)
  yield from run_ahead((put(batch_at(step)) for step in steps), depth)


def _checked_rows(
  wanted: Sequence[int] | None, batch_size: int
) -> Sequence[int]:
  """Returns the rows of a batch that are wanted, by default all of them."""
  if wanted is None:
    return range(batch_size)
  ascending = itertools.pairwise([-1, *wanted, batch_size])
  possible = len(wanted) and all(low < high for low, high in ascending)
  assert possible, f"{wanted=} must ascend in 0..{batch_size - 1}"
  return tuple(wanted)


def _stack(rows: list[Row]) -> Row:
  return {name: np.stack([row[name] for row in rows]) for name in FEATURES}
