"""Pieces -> batches of a few static shapes.

Every piece goes into the narrowest bucket that holds its tokens, and a batch
is filled from one bucket: a program is compiled for each bucket once. A batch
is a function of (seed, step): a run that goes on needs no other position.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from time_jax import sharding
from time_jax.arrays import Batch, make_batch
from time_jax.errors import UserError
from time_jax.evals.pieces import Piece

Targets = Mapping[str, Int[np.ndarray, " words"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WordBatch:
  """Rows of one piece each; W = T, since every word has a token.

  Attributes:
    batch: the tokens, as an encoder takes them.
    word_of_token: of every token, its word from 1; 0: of none, or padding.
    num_words: words of each row; 0: an empty row.
    targets: name -> the number of each word's label; -1: none.
  """

  batch: Batch
  word_of_token: Int[Array | np.ndarray, "B T"]
  num_words: Int[Array | np.ndarray, " B"]
  targets: Mapping[str, Int[Array | np.ndarray, "B W"]]


@dataclasses.dataclass(frozen=True)
class Buckets:
  """The shapes that batches may have.

  Attributes:
    lengths: tokens in a row, ascending.
    rows: rows of a batch.
    max_tokens: rows are fewer where they would hold more than this.
    ways: that the rows are split into on the devices.
  """

  lengths: tuple[int, ...]
  rows: int
  max_tokens: int
  ways: int = 1

  def rows_of(self, length: int) -> int:
    """Rows of a batch of this length, a multiple of `ways`."""
    rows = max(min(self.rows, self.max_tokens // length), 1)
    return -(-rows // self.ways) * self.ways

  def split(self, pieces: Sequence[Piece]) -> dict[int, np.ndarray]:
    """Length -> indices of the pieces in its bucket; none is empty."""
    sizes = np.array([len(piece.tokens) for piece in pieces])
    which = np.searchsorted(self.lengths, sizes)
    return {
      length: np.flatnonzero(which == i)
      for i, length in enumerate(self.lengths)
      if (which == i).any()
    }


def make_buckets(
  lengths: Sequence[int], longest: int, rows: int, max_tokens: int, ways: int
) -> Buckets:
  """Buckets up to what an encoder takes.

  Args:
    lengths: as configured; longer ones are left out.
    longest: tokens of a piece at most: the last bucket.
    rows: of a batch.
    max_tokens: of a batch.
    ways: see `Buckets`.
  """
  if not lengths or min(lengths) < 1:
    raise UserError(
      f"data.buckets={tuple(lengths)}: expected lengths in tokens, such as "
      "(32, 64, 128)."
    )
  kept = sorted({*(n for n in lengths if n < longest), longest})
  return Buckets(tuple(kept), rows, max_tokens, ways)


class Epochs:
  """The batches of a training run, by step."""

  def __init__(
    self,
    pieces: Sequence[Piece],
    targets: Sequence[Targets],
    buckets: Buckets,
    pad_id: int,
    seed: int,
  ) -> None:
    """Sorts pieces into buckets.

    Args:
      pieces: to train on.
      targets: of each piece.
      buckets: the shapes.
      pad_id: for free places.
      seed: of the order.
    """
    self._pieces, self._targets = pieces, targets
    self._buckets, self._pad_id, self._seed = buckets, pad_id, seed
    self._split = buckets.split(pieces)
    self.steps = sum(
      -(-len(indices) // buckets.rows_of(length))
      for length, indices in self._split.items()
    )
    self._epoch: tuple[int, list[tuple[int, np.ndarray]]] = (-1, [])

  def batch_at(self, step: int) -> WordBatch:
    """The batch of a step, on the host; the same in every process."""
    epoch, i = divmod(step, self.steps)
    if epoch != self._epoch[0]:
      self._epoch = epoch, self._order(epoch)
    length, chosen = self._epoch[1][i]
    return fill(
      [self._pieces[i] for i in chosen],
      [self._targets[i] for i in chosen],
      length,
      self._buckets.rows_of(length),
      self._pad_id,
    )

  def _order(self, epoch: int) -> list[tuple[int, np.ndarray]]:
    random = np.random.default_rng((self._seed, epoch))
    found = []
    for length, indices in self._split.items():
      mixed, rows = random.permutation(indices), self._buckets.rows_of(length)
      found += [
        (length, mixed[i : i + rows]) for i in range(0, len(mixed), rows)
      ]
    return [found[i] for i in random.permutation(len(found))]


def in_order(
  pieces: Sequence[Piece], buckets: Buckets, pad_id: int
) -> list[tuple[np.ndarray, WordBatch]]:
  """All pieces once, as (their indices, batch), without targets."""
  found = []
  for length, indices in buckets.split(pieces).items():
    rows = buckets.rows_of(length)
    for i in range(0, len(indices), rows):
      chosen = indices[i : i + rows]
      batch = fill([pieces[j] for j in chosen], [], length, rows, pad_id)
      found.append((chosen, batch))
  return found


def fill(
  pieces: Sequence[Piece],
  targets: Sequence[Targets],
  length: int,
  rows: int,
  pad_id: int,
) -> WordBatch:
  """Lays pieces into rows; rows that are left are empty.

  Args:
    pieces: at most `rows`.
    targets: of each piece, all of the same names; or of none.
    length: tokens in a row.
    rows: of the batch.
    pad_id: for free places.
  """
  tokens = np.full((rows, length), pad_id, np.int32)
  owners = np.zeros((rows, length), np.int32)
  segments = np.zeros((rows, length), np.int32)
  num_words = np.zeros(rows, np.int32)
  labels = {
    name: np.full((rows, length), -1, np.int32)
    for name in (targets[0] if targets else ())
  }
  for row, piece in enumerate(pieces):
    size = len(piece.tokens)
    tokens[row, :size], owners[row, :size] = piece.tokens, piece.word_of_token
    segments[row, :size], num_words[row] = 1, piece.num_words
    for name, array in labels.items():
      array[row, : piece.num_words] = targets[row][name]
  return WordBatch(make_batch(tokens, segments), owners, num_words, labels)


def place(batch: WordBatch, mesh: Mesh) -> WordBatch:
  """Lays a host batch, the same in every process, on the devices."""
  layout = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda array: sharding.place(array, layout), batch)
