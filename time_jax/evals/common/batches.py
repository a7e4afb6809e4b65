"""Turns examples into batches of a few static shapes.

Every example goes into the narrowest bucket that holds its tokens, and a batch
is filled from one bucket: a program is compiled for each bucket once. A batch
is a function of (seed, step): a run that goes on needs no other position.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from time_jax.core.arrays import Batch, make_batch
from time_jax.core.errors import UserError
from time_jax.parallel import sharding

Numbers = Sequence[int] | Int[np.ndarray, " k"]


class Examples(Protocol):
  """Examples that batches are filled from, by number."""

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each example."""

  def fill(self, rows: Sequence[Numbers], length: int, count: int) -> Any:
    """Writes examples into the rows of a batch.

    Args:
      rows: for each row the numbers of its examples, of which there is one
        today; rows beyond these stay empty.
      length: tokens in a row.
      count: rows of the batch.

    Returns:
      A pytree of host arrays with the rows in front. Its field `batch` is what
      the encoder reads; its `segment_ids` keep the examples of a row apart.
    """


@dataclasses.dataclass(frozen=True)
class Buckets:
  """The shapes that batches may have.

  Attributes:
    lengths: tokens in a row, ascending.
    rows: rows of a batch.
    max_tokens: tokens of a batch; long rows are fewer for that.
    ways: number of parts that devices split the rows into.
    fewer: row counts that the last batch of a length may have instead, if it
      needs no more; each is a program of its own.
  """

  lengths: tuple[int, ...]
  rows: int
  max_tokens: int
  ways: int = 1
  fewer: tuple[int, ...] = ()

  def rows_of(self, length: int, needed: int | None = None) -> int:
    """Returns the rows of a batch of this length, a multiple of `ways`.

    Args:
      length: tokens in a row.
      needed: how many rows will do; None: those of a full batch.
    """
    rows = max(min(self.rows, self.max_tokens // length), 1)
    if needed is not None:
      rows = min(n for n in (*self.fewer, rows) if n >= min(needed, rows))
    return -(-rows // self.ways) * self.ways

  def split(self, examples: Examples) -> dict[int, np.ndarray]:
    """Returns length -> numbers of the examples in that bucket, if any."""
    which = np.searchsorted(self.lengths, examples.sizes)
    return {
      length: np.flatnonzero(which == i)
      for i, length in enumerate(self.lengths)
      if (which == i).any()
    }


def make_buckets(
  lengths: Sequence[int], longest: int, rows: int, max_tokens: int, mesh: Mesh
) -> Buckets:
  """Returns buckets up to what an encoder takes.

  Args:
    lengths: configured lengths; longer ones than `longest` are left out.
    longest: tokens of the longest example, the last bucket.
    rows: rows of a batch.
    max_tokens: tokens of a batch.
    mesh: the devices.
  """
  if not lengths or min(lengths) < 1:
    raise UserError(
      f"data.buckets={tuple(lengths)}: expected lengths in tokens, such as "
      "(32, 64, 128)."
    )
  kept = sorted({*(n for n in lengths if n < longest), longest})
  return Buckets(tuple(kept), rows, max_tokens, sharding.batch_ways(mesh))


class Epochs:
  """The batches of a training run, by step."""

  def __init__(self, examples: Examples, buckets: Buckets, seed: int) -> None:
    """Sorts examples into buckets.

    Args:
      examples: examples to train on.
      buckets: the shapes of batches.
      seed: seed of the order.
    """
    self._examples, self._buckets, self._seed = examples, buckets, seed
    self._split = buckets.split(examples)
    self.steps = sum(
      -(-len(numbers) // buckets.rows_of(length))
      for length, numbers in self._split.items()
    )
    self._epoch: tuple[int, list[tuple[int, np.ndarray]]] = (-1, [])

  def batch_at(self, step: int) -> Any:
    """Returns the batch of a step on the host, the same in every process."""
    epoch, i = divmod(step, self.steps)
    if epoch != self._epoch[0]:
      self._epoch = epoch, self._order(epoch)
    length, chosen = self._epoch[1][i]
    rows = self._buckets.rows_of(length)
    return self._examples.fill([[i] for i in chosen], length, rows)

  def _order(self, epoch: int) -> list[tuple[int, np.ndarray]]:
    random = np.random.default_rng((self._seed, epoch))
    batches = []
    for length, numbers in self._split.items():
      mixed, rows = random.permutation(numbers), self._buckets.rows_of(length)
      starts = range(0, len(mixed), rows)
      batches += [(length, mixed[i : i + rows]) for i in starts]
    return [batches[i] for i in random.permutation(len(batches))]


def in_order(
  examples: Examples, buckets: Buckets, beat: Callable[[], None] = lambda: None
) -> Iterator[tuple[np.ndarray, Any]]:
  """Yields all examples once, as (their numbers, batch).

  Args:
    examples: examples in any order.
    buckets: the shapes of batches.
    beat: called after every batch.
  """
  for length, numbers in buckets.split(examples).items():
    rows = buckets.rows_of(length)
    for i in range(0, len(numbers), rows):
      chosen = numbers[i : i + rows]
      least = buckets.rows_of(length, len(chosen))
      yield chosen, examples.fill([[i] for i in chosen], length, least)
      beat()


def pad_rows(
  documents: Sequence[Numbers], length: int, rows: int, pad_id: int
) -> Batch:
  """Writes each document into a row of its own.

  Args:
    documents: token ids, at most `rows` documents of at most `length` each.
    length: tokens in a row.
    rows: rows of the batch.
    pad_id: the id that fills free places.
  """
  ids = np.full((rows, length), pad_id, np.int32)
  segments = np.zeros((rows, length), np.int32)
  for row, tokens in enumerate(documents):
    ids[row, : len(tokens)], segments[row, : len(tokens)] = tokens, 1
  return make_batch(ids, segments)


def place(batch: Any, mesh: Mesh) -> Any:
  """Puts a host batch, the same in every process, on the devices."""
  layout = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda array: sharding.place(array, layout), batch)
