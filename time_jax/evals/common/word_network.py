"""Batches of words with labels, and the network that labels words."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from time_jax.core.arrays import Batch
from time_jax.evals.common import batches
from time_jax.evals.common.batches import Numbers, Shape
from time_jax.evals.common.engine import Engine, Work
from time_jax.evals.common.task import Beat, Network
from time_jax.evals.common.word_tokens import Chunk, Labels, WordTokenizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WordBatch:
  """Rows of chunks, one after another in a row, and so are their words.

  Attributes:
    batch: the tokens, as an encoder takes them.
    word_of_token: the word of each token in its row, from 1; 0: of none.
    segment_of_word: the chunk of each word, as `batch.segment_ids` number
      them; 0: there is no word.
    targets: name -> number of each word's label; -1: none.
  """

  batch: Batch
  word_of_token: Int[Array | np.ndarray, "B T"]
  segment_of_word: Int[Array | np.ndarray, "B W"]
  targets: Mapping[str, Int[Array | np.ndarray, "B W"]]


@dataclasses.dataclass(frozen=True)
class WordExamples:
  """Chunks as examples; see `batches.Examples`.

  Attributes:
    chunks: the chunks.
    pad_id: id of the padding token.
    targets: the labels of each chunk, all of the same names; or empty.
    columns: names of labels that are 0 or the number of a word of the chunk,
      from 1; in a batch it is the number of that word in its row.
  """

  chunks: Sequence[Chunk]
  pad_id: int
  targets: Sequence[Labels] = ()
  columns: tuple[str, ...] = ()

  @functools.cached_property
  def _tokens(self) -> list[Int[np.ndarray, " t"]]:
    return [chunk.tokens for chunk in self.chunks]

  @functools.cached_property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each chunk."""
    return np.array([*map(len, self._tokens)], np.int64)

  @functools.cached_property
  def words(self) -> Int[np.ndarray, " n"]:
    """Words of each chunk."""
    return np.array([chunk.num_words for chunk in self.chunks], np.int64)

  def room(self, tokens: int, parts: int) -> int:
    """Returns the words of a row: as many as chunks have on average, or more.

    So rows are full of both. See `batches.Examples`.
    """
    part = self.words.sum() / max(self.sizes.sum(), 1)
    return -(-tokens * math.ceil(parts * part) // parts)

  def fill(self, rows: Sequence[Numbers], shape: Shape) -> WordBatch:
    """Writes chunks into each row."""
    names = self.targets[0] if self.targets else ()
    owners = np.zeros((shape.rows, shape.tokens), np.int32)
    segments = np.zeros((shape.rows, shape.words), np.int32)
    targets = {name: np.full_like(segments, -1) for name in names}
    for row, numbers in enumerate(rows):
      token = word = 0
      for segment, i in enumerate(numbers, 1):
        chunk = self.chunks[i]
        places = slice(token, token + len(chunk.tokens))
        owner = chunk.word_of_token
        owners[row, places] = np.where(owner > 0, owner + word, 0)
        places = slice(word, word + chunk.num_words)
        segments[row, places] = segment
        for name, array in targets.items():
          labels = self.targets[i][name]
          if name in self.columns:
            labels = np.where(labels > 0, labels + word, labels)
          array[row, places] = labels
        token, word = token + len(chunk.tokens), places.stop
    batch = batches.fill_rows(self._tokens, rows, shape, self.pad_id)
    return WordBatch(batch, owners, segments, targets)


class WordNetwork(Network):
  """A network that labels words."""

  @functools.cached_property
  def tokenizer(self) -> WordTokenizer:
    """Turns words into tokens."""
    return WordTokenizer(self.opened.tokenizer, self.buckets.lengths[-1])

  @property
  def blank(self) -> WordBatch:
    """See `task.Network`."""
    examples = WordExamples([], self.opened.tokenizer.pad_id)
    return examples.fill([], Shape(1, 1, 1))

  def prepare_words(
    self,
    items: Sequence[Any],
    words: Sequence[Sequence[str]],
    *,
    windows: bool = False,
  ) -> Work:
    """Returns the batches of sentences; see `Network.prepare`.

    Args:
      items: the sentences.
      words: words of each sentence.
      windows: see `WordTokenizer.chunks`.
    """
    chunks = self.tokenizer.chunks(words, windows=windows)
    examples = WordExamples(chunks, self.opened.tokenizer.pad_id)
    return Work(items, chunks, list(batches.in_rows(examples, self.buckets)))

  def label(
    self, engine: Engine, work: Work, beat: Beat
  ) -> list[tuple[Chunk, Labels]]:
    """Returns the chunks of sentences with the labels of their words.

    Args:
      engine: computes the network.
      work: what `prepare_words` returns.
      beat: called after every batch.
    """
    chunks = work.examples
    labels: list[Labels] = [{}] * len(chunks)
    for rows, of_words in self.predict(engine, work, beat):
      for row, numbers in enumerate(rows):
        start = 0
        for i in numbers:
          stop = start + chunks[i].num_words
          labels[i] = {k: v[row, start:stop] for k, v in of_words.items()}
          start = stop
    return list(zip(chunks, labels, strict=True))
