"""Turns examples into batches of a few static shapes.

Several examples share a row. A batch of training has examples that rows of one
length are opened for, whatever rows they are packed into, and is a function of
(seed, step): a run that goes on needs no other position.
"""

import bisect
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from numpy.typing import NDArray

from time_jax.core.arrays import Batch, make_batch
from time_jax.core.errors import UserError
from time_jax.data.packing import lay_out
from time_jax.evals.common.packing import pack
from time_jax.parallel import sharding

# Tokens of a batch of prediction, with padding; and the rows of one that has
# fewer than that.
_PLACES = 4096
_FEWER = (1, 8, 32)

# Steps of the words in a row, in parts of its tokens. A run of training has one
# width; prediction compiles one more program for each that comes up.
_FINE, _COARSE = 8, 4

Numbers = Sequence[int]


class Shape(NamedTuple):
  """The shape of a batch; each is a program of its own.

  Attributes:
    rows: rows of the batch.
    tokens: tokens in a row.
    words: words in a row.
  """

  rows: int
  tokens: int
  words: int


class Examples(Protocol):
  """Examples that batches are filled from, by number."""

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each example."""

  @property
  def words(self) -> Int[np.ndarray, " n"]:
    """Words of each example: what the heads label. A window of `qa` is one."""

  def room(self, tokens: int, parts: int) -> int:
    """Returns for how many words a row of so many tokens should have room.

    Args:
      tokens: tokens in the row.
      parts: the words are a multiple of the tokens divided by this.
    """

  def fill(self, rows: Sequence[Numbers], shape: Shape) -> Any:
    """Writes examples into the rows of a batch.

    Args:
      rows: for each row the numbers of its examples, which must fit; rows
        beyond these stay empty.
      shape: shape of the batch.

    Returns:
      A pytree of host arrays with the rows in front. Its field `batch` is what
      the encoder reads; its `segment_ids` keep the examples of a row apart.
    """


@dataclasses.dataclass(frozen=True)
class Buckets:
  """The lengths of examples and of rows.

  Attributes:
    lengths: tokens of an example at most, ascending.
    ways: number of parts that devices split the rows into.
    shared: tokens in a row that several examples share; a longer example gets
      a row of its bucket's length.
  """

  lengths: tuple[int, ...]
  ways: int = 1
  shared: int = 128

  def even(self, rows: int) -> int:
    """Returns the next multiple of `ways`."""
    return -(-rows // self.ways) * self.ways

  def bucket(self, size: int) -> int:
    """Returns the shortest length that holds so many tokens."""
    return self.lengths[int(np.searchsorted(self.lengths, size))]

  def row_length(self, size: int) -> int:
    """Returns the tokens of the row that an example of this size opens."""
    return max(self.bucket(size), min(self.shared, self.lengths[-1]))

  def split(self, examples: Examples) -> dict[int, np.ndarray]:
    """Returns length of a row -> numbers of the examples that open such rows.

    All that share rows are together: the shorter fill what the longer leave.
    """
    lengths = np.array([self.row_length(n) for n in examples.sizes.tolist()])
    return {
      length: np.flatnonzero(lengths == length)
      for length in np.unique(lengths).tolist()
    }


def make_buckets(lengths: Sequence[int], longest: int, mesh: Mesh) -> Buckets:
  """Returns buckets up to what an encoder takes.

  Args:
    lengths: configured lengths; longer ones than `longest` are left out.
    longest: tokens of the longest example, the last bucket.
    mesh: the devices.
  """
  if not lengths or min(lengths) < 1:
    raise UserError(
      f"data.buckets={tuple(lengths)}: expected lengths in tokens, such as "
      "(32, 64, 128)."
    )
  kept = sorted({*(n for n in lengths if n < longest), longest})
  return Buckets(tuple(kept), sharding.batch_ways(mesh))


class Epochs:
  """The batches of a training run, by step."""

  def __init__(
    self,
    examples: Examples,
    buckets: Buckets,
    *,
    batch_size: int,
    max_tokens: int,
    epochs: int,
    seed: int,
  ) -> None:
    """Sorts examples by the length of the row that they open.

    Args:
      examples: examples to train on.
      buckets: the lengths of examples and rows.
      batch_size: examples of a batch; all of them open rows of one length.
      max_tokens: of a batch: there are fewer examples that open long rows.
      epochs: number of epochs of the whole run.
      seed: seed of the order.
    """
    self._examples, self._buckets = examples, buckets
    self._seed, self._epochs = seed, epochs
    self._split = buckets.split(examples)
    self._sizes, self._words = examples.sizes, examples.words
    self._counts = {
      length: buckets.even(max(min(batch_size, max_tokens // length), 1))
      for length in self._split
    }
    self.steps = sum(
      -(-len(numbers) // self._counts[length])
      for length, numbers in self._split.items()
    )
    self._epoch: tuple[int, list[tuple[int, np.ndarray]]] = (-1, [])

  def batch_at(self, step: int) -> Any:
    """Returns the batch of a step on the host, the same in every process."""
    epoch, i = divmod(step, self.steps)
    if epoch != self._epoch[0]:
      self._epoch = epoch, self._order(epoch)
    length, chosen = self._epoch[1][i]
    shape = self._shapes[length]
    return self._examples.fill(self.packed(chosen, shape), shape)

  def _order(self, epoch: int) -> list[tuple[int, np.ndarray]]:
    random = np.random.default_rng((self._seed, epoch))
    batches = []
    for length, numbers in self._split.items():
      # Every batch draws from all strata of sizes, so that batches have about
      # as many tokens, and none needs many more rows than the others.
      mixed = random.permutation(numbers)
      by_size = mixed[np.argsort(self._sizes[mixed], kind="stable")]
      steps = -(-len(numbers) // self._counts[length])
      starts = range(0, len(by_size), steps)
      strata = [random.permutation(by_size[i : i + steps]) for i in starts]
      for i in range(steps):
        chosen = [stratum[i] for stratum in strata if i < len(stratum)]
        batches.append((length, np.asarray(chosen)))
    return [batches[i] for i in random.permutation(len(batches))]

  def packed(self, chosen: np.ndarray, shape: Shape) -> list[Numbers]:
    """Returns the numbers of chosen examples by row, for rows of a shape."""
    room = shape.tokens, shape.words
    rows = pack(self._sizes[chosen], self._words[chosen], lambda *_: room)
    return [chosen[row.numbers].tolist() for row in rows]

  @functools.cached_property
  def _shapes(self) -> dict[int, Shape]:
    """Length -> shape, with as many rows as any step of the run needs.

    Rows are as long as the examples open them, or twice that where a batch
    costs less for it. Devices have no say in it: what dropout does depends on
    the row, and a run should be the same on any number of them.
    """
    shapes = {}
    for length, numbers in self._split.items():
      possible = []
      for tokens in {length, min(2 * length, self._buckets.lengths[-1])}:
        words = max(
          self._examples.room(tokens, _FINE), self._words[numbers].max()
        )
        shape = Shape(0, tokens, int(words))
        possible.append(shape._replace(rows=self._rows(length, shape, 1)))
      best = min(possible, key=_cost)
      rows = self._rows(length, best, self._epochs)
      shapes[length] = best._replace(rows=self._buckets.even(rows))
    return shapes

  def _rows(self, length: int, shape: Shape, epochs: int) -> int:
    """Returns the most rows that batches of a length take in these epochs."""
    return max(
      len(self.packed(chosen, shape))
      for epoch in range(epochs)
      for own, chosen in self._order(epoch)
      if own == length
    )


def _cost(shape: Shape) -> float:
  """Returns the places of a batch, which cost more in longer rows.

  In rows of 256 and 512 tokens one took a CPU about 1.15 and 1.27 times as long
  as in rows of 128, in an encoder of 384 dimensions.
  """
  return shape.rows * shape.tokens * (1024 + shape.tokens)


def in_rows(
  examples: Examples, buckets: Buckets
) -> Iterator[tuple[list[Numbers], Any]]:
  """Yields batches of prediction: all examples once, packed into rows.

  A few examples that one row holds are a batch of one row, which is as short
  as can be.

  Args:
    examples: examples in any order.
    buckets: the lengths of rows.

  Yields:
    The numbers of the examples by row, and the batch on the host.
  """
  sizes, words = examples.sizes, examples.words

  def open_row(size: int, count: int) -> tuple[int, int]:
    length = buckets.row_length(size)
    room = examples.room(length, _COARSE)
    return length, room if count <= room else length

  rows = pack(sizes, words, open_row)
  if len(rows) == 1:
    rows[0].tokens = buckets.bucket(int(sizes.sum()))
    rows[0].words = rows[0].tokens  # A shape for each length.
  by_shape: dict[tuple[int, int], list[Numbers]] = {}
  for row in rows:
    by_shape.setdefault((row.tokens, row.words), []).append(row.numbers)
  for (tokens, room), numbers in by_shape.items():
    start = 0
    while start < len(numbers):
      count = rows_at_once(tokens, len(numbers) - start)
      some = numbers[start : start + count]
      shape = Shape(buckets.even(count), tokens, room)
      yield some, examples.fill(some, shape)
      start += count


def rows_at_once(tokens: int, needed: int) -> int:
  """Returns the rows of the next batch of prediction.

  As many as a batch holds, or one of few smaller numbers: the first that is
  enough, unless more than a quarter of its rows would stay empty.

  Args:
    tokens: tokens in a row.
    needed: rows that are still to be computed.
  """
  full = max(_PLACES // tokens, 1)
  counts = [*(n for n in _FEWER if n < full), full]
  enough = bisect.bisect_left(counts, min(needed, full))
  if enough and needed < 0.75 * counts[enough]:
    enough -= 1
  return counts[enough]


def fill_rows(
  documents: Sequence[NDArray[np.int32]],
  rows: Sequence[Numbers],
  shape: Shape,
  pad_id: int,
) -> Batch:
  """Writes documents into the rows of a batch, one after another.

  Args:
    documents: token ids of each document.
    rows: for each row the numbers of its documents; rows beyond these stay
      empty.
    shape: shape of the batch.
    pad_id: the id that fills free places.
  """
  empty: list[Numbers] = [()] * (shape.rows - len(rows))
  return make_batch(
    *lay_out(documents, [*rows, *empty], seq_len=shape.tokens, pad_id=pad_id)
  )


def place(batch: Any, mesh: Mesh) -> Any:
  """Puts a batch on the devices.

  Args:
    batch: arrays on the host, the same in every process; those that are on the
      devices stay as they are.
    mesh: the devices.
  """
  layout = sharding.batch_sharding(mesh)

  def put(array: Any) -> jax.Array:
    if isinstance(array, jax.Array):
      return array
    return sharding.place(array, layout)

  return jax.tree.map(put, batch)
