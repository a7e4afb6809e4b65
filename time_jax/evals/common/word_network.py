"""Batches of words with labels, and the network that labels words."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from time_jax.core.arrays import Batch
from time_jax.evals.common import batches
from time_jax.evals.common.batches import Numbers
from time_jax.evals.common.task import Network
from time_jax.evals.common.word_tokens import Chunk, WordTokenizer
from time_jax.models.family import Params

Labels = Mapping[str, Int[np.ndarray, " words"]]  # name -> number of each label


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WordBatch:
  """Rows of chunks; W = T, since every word has a token.

  Attributes:
    batch: the tokens, as an encoder takes them.
    word_of_token: the word of each token, from 1; 0: of none, or padding.
    segment_of_word: the document of each word, as `batch.segment_ids` number
      them; 0: there is no word.
    targets: name -> number of each word's label; -1: none.
  """

  batch: Batch
  word_of_token: Int[Array | np.ndarray, "B T"]
  segment_of_word: Int[Array | np.ndarray, "B W"]
  targets: Mapping[str, Int[Array | np.ndarray, "B W"]]

  @property
  def num_words(self) -> Int[Array | np.ndarray, " B"]:
    """Number of words of each row."""
    return (self.segment_of_word > 0).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class WordExamples:
  """Chunks as examples; see `batches.Examples`.

  Attributes:
    chunks: the chunks.
    pad_id: id of the padding token.
    targets: the labels of each chunk, all of the same names; or empty.
  """

  chunks: Sequence[Chunk]
  pad_id: int
  targets: Sequence[Labels] = ()

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each chunk."""
    return np.array([len(chunk.tokens) for chunk in self.chunks])

  def fill(self, rows: Sequence[Numbers], length: int, count: int) -> WordBatch:
    """Writes a chunk into each row."""
    names = self.targets[0] if self.targets else ()
    owners, segments = np.zeros((2, count, length), np.int32)
    targets = {name: np.full((count, length), -1, np.int32) for name in names}
    for row, (i,) in enumerate(rows):
      chunk = self.chunks[i]
      owners[row, : len(chunk.tokens)] = chunk.word_of_token
      segments[row, : chunk.num_words] = 1
      for name, array in targets.items():
        array[row, : chunk.num_words] = self.targets[i][name]
    tokens = [self.chunks[i].tokens for (i,) in rows]
    batch = batches.pad_rows(tokens, length, count, self.pad_id)
    return WordBatch(batch, owners, segments, targets)


class WordNetwork(Network):
  """A network that labels words."""

  @functools.cached_property
  def tokenizer(self) -> WordTokenizer:
    """Turns words into tokens."""
    return WordTokenizer(self.opened.tokenizer, self.buckets.lengths[-1])

  def label(
    self,
    params: Params,
    sentences: Sequence[Sequence[str]],
    beat: Callable[[], None],
  ) -> list[tuple[Chunk, Labels]]:
    """Returns the chunks of sentences with the labels of their words.

    Args:
      params: parameters of encoder and heads.
      sentences: words of each sentence.
      beat: called after every batch.
    """
    chunks = self.tokenizer.chunks(sentences)
    examples = WordExamples(chunks, self.opened.tokenizer.pad_id)
    labels = self.predict(params, examples, beat)
    return [
      (chunk, {name: row[: chunk.num_words] for name, row in of_words.items()})
      for chunk, of_words in zip(chunks, labels, strict=True)
    ]
