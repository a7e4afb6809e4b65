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
  """Rows of one chunk each; W = T, since every word has a token.

  Attributes:
    batch: the tokens, as an encoder takes them.
    word_of_token: the word of each token, from 1; 0: of none, or padding.
    num_words: number of words of each row; 0: an empty row.
    targets: name -> number of each word's label; -1: none.
  """

  batch: Batch
  word_of_token: Int[Array | np.ndarray, "B T"]
  num_words: Int[Array | np.ndarray, " B"]
  targets: Mapping[str, Int[Array | np.ndarray, "B W"]]


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

  def fill(self, chosen: Numbers, length: int, rows: int) -> WordBatch:
    """Writes each chosen chunk into a row."""
    names = self.targets[0] if self.targets else ()
    owners = np.zeros((rows, length), np.int32)
    num_words = np.zeros(rows, np.int32)
    targets = {name: np.full((rows, length), -1, np.int32) for name in names}
    for row, i in enumerate(chosen):
      chunk = self.chunks[i]
      owners[row, : len(chunk.tokens)] = chunk.word_of_token
      num_words[row] = chunk.num_words
      for name, array in targets.items():
        array[row, : chunk.num_words] = self.targets[i][name]
    tokens = [self.chunks[i].tokens for i in chosen]
    batch = batches.pad_rows(tokens, length, rows, self.pad_id)
    return WordBatch(batch, owners, num_words, targets)


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
