"""Examples -> batches of a few static shapes.

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
  """What batches are filled from, by number."""

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each."""

  def fill(self, chosen: Numbers, length: int, rows: int) -> Any:
    """Lays examples into rows, one each; rows that are left are empty.

    Args:
      chosen: their numbers, at most `rows`.
      length: tokens in a row.
      rows: of the batch.

    Returns:
      A pytree of host arrays, each with the rows in front, that has the tokens
      as `batch`.
    """


@dataclasses.dataclass(frozen=True)
class Buckets:
  """The shapes that batches may have.

  Attributes:
    lengths: tokens in a row, ascending.
    rows: rows of a batch.
    max_tokens: rows are fewer where they would hold more than this.
    ways: that the rows are split into on the devices.
    fewer: rows that the last batch of a length may have instead, if it needs
      no more: a program each.
  """

  lengths: tuple[int, ...]
  rows: int
  max_tokens: int
  ways: int = 1
  fewer: tuple[int, ...] = ()

  @property
  def longest(self) -> int:
    """Tokens in a row at most."""
    return self.lengths[-1]

  def rows_of(self, length: int, needed: int | None = None) -> int:
    """Rows of a batch of this length, a multiple of `ways`.

    Args:
      length: tokens in a row.
      needed: how many will do, where `fewer` has as few.
    """
    rows = max(min(self.rows, self.max_tokens // length), 1)
    if needed is not None:
      rows = min(n for n in (*self.fewer, rows) if n >= min(needed, rows))
    return -(-rows // self.ways) * self.ways

  def split(self, examples: Examples) -> dict[int, np.ndarray]:
    """Length -> numbers of the examples in its bucket; none is empty."""
    which = np.searchsorted(self.lengths, examples.sizes)
    return {
      length: np.flatnonzero(which == i)
      for i, length in enumerate(self.lengths)
      if (which == i).any()
    }


def make_buckets(
  lengths: Sequence[int], longest: int, rows: int, max_tokens: int, mesh: Mesh
) -> Buckets:
  """Buckets up to what an encoder takes.

  Args:
    lengths: as configured; longer ones are left out.
    longest: tokens of an example at most: the last bucket.
    rows: of a batch.
    max_tokens: of a batch.
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
      examples: to train on.
      buckets: the shapes.
      seed: of the order.
    """
    self._examples, self._buckets, self._seed = examples, buckets, seed
    self._split = buckets.split(examples)
    self.steps = sum(
      -(-len(numbers) // buckets.rows_of(length))
      for length, numbers in self._split.items()
    )
    self._epoch: tuple[int, list[tuple[int, np.ndarray]]] = (-1, [])

  def batch_at(self, step: int) -> Any:
    """The batch of a step, on the host; the same in every process."""
    epoch, i = divmod(step, self.steps)
    if epoch != self._epoch[0]:
      self._epoch = epoch, self._order(epoch)
    length, chosen = self._epoch[1][i]
    return self._examples.fill(chosen, length, self._buckets.rows_of(length))

  def _order(self, epoch: int) -> list[tuple[int, np.ndarray]]:
    random = np.random.default_rng((self._seed, epoch))
    found = []
    for length, numbers in self._split.items():
      mixed, rows = random.permutation(numbers), self._buckets.rows_of(length)
      found += [
        (length, mixed[i : i + rows]) for i in range(0, len(mixed), rows)
      ]
    return [found[i] for i in random.permutation(len(found))]


def silent() -> None:
  """What is called after a batch where nobody waits for it."""


def in_order(
  examples: Examples, buckets: Buckets, beat: Callable[[], None] = silent
) -> Iterator[tuple[np.ndarray, Any]]:
  """All examples once, as (their numbers, batch).

  Args:
    examples: in any order.
    buckets: the shapes of batches.
    beat: is called after every batch.
  """
  for length, numbers in buckets.split(examples).items():
    rows = buckets.rows_of(length)
    for i in range(0, len(numbers), rows):
      chosen = numbers[i : i + rows]
      least = buckets.rows_of(length, len(chosen))
      yield chosen, examples.fill(chosen, length, least)
      beat()


def lay(
  tokens: Sequence[Int[np.ndarray, " t"]], length: int, rows: int, pad_id: int
) -> Batch:
  """Token rows of these shapes, a document each.

  Args:
    tokens: of each document, at most `rows` of them.
    length: of a row.
    rows: of the batch.
    pad_id: for free places.
  """
  ids = np.full((rows, length), pad_id, np.int32)
  segments = np.zeros((rows, length), np.int32)
  for row, some in enumerate(tokens):
    ids[row, : len(some)], segments[row, : len(some)] = some, 1
  return make_batch(ids, segments)


def place(batch: Any, mesh: Mesh) -> Any:
  """Lays a host batch, the same in every process, on the devices."""
  layout = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda array: sharding.place(array, layout), batch)
