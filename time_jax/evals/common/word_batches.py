"""Pieces of sentences -> batches of words with their labels."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from time_jax.core.arrays import Batch
from time_jax.evals.common import batches
from time_jax.evals.common.batches import Numbers
from time_jax.evals.common.subwords import Piece

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
class WordExamples:
  """See `batches.Examples`.

  Attributes:
    pieces: of sentences.
    pad_id: for free places.
    targets: of each piece, all of the same names; or of none.
  """

  pieces: Sequence[Piece]
  pad_id: int
  targets: Sequence[Targets] = ()

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each piece."""
    return np.array([len(piece.tokens) for piece in self.pieces])

  def fill(self, chosen: Numbers, length: int, rows: int) -> WordBatch:
    """Lays pieces into rows."""
    pieces = [self.pieces[i] for i in chosen]
    owners = np.zeros((rows, length), np.int32)
    num_words = np.zeros(rows, np.int32)
    for row, piece in enumerate(pieces):
      owners[row, : len(piece.tokens)] = piece.word_of_token
      num_words[row] = piece.num_words
    names = self.targets[0] if self.targets else ()
    labels = {name: np.full((rows, length), -1, np.int32) for name in names}
    for name, array in labels.items():
      for row, i in enumerate(chosen):
        array[row, : num_words[row]] = self.targets[i][name]
    tokens = [piece.tokens for piece in pieces]
    batch = batches.lay(tokens, length, rows, self.pad_id)
    return WordBatch(batch, owners, num_words, labels)
