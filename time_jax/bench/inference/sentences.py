"""Batches of real sentences, the same for everything that is measured."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from time_jax.core.errors import UserError
from time_jax.data import sources
from time_jax.data.records import Tally
from time_jax.data.tokenizing import TokenizerSpec, WindowEncoder

_STEP = 8  # Lengths are rounded up to its multiples: few shapes to compile.
_LONGEST = 512


@dataclasses.dataclass(frozen=True)
class SentenceBatch:
  """Some sentences.

  Attributes:
    texts: the sentences as they are written.
    tokens: token ids, [B, T].
    mask: 1 for a token and 0 for padding, [B, T].
  """

  texts: list[str]
  tokens: np.ndarray
  mask: np.ndarray


def read(text: str, spec: TokenizerSpec) -> list[tuple[str, np.ndarray]]:
  """Reads sentences with their token ids, cut off at 512.

  Args:
    text: source of text with one sentence a document.
    spec: the tokenizer.

  Raises:
    UserError: there is no such text, or nothing in it.
  """
  texts = list(sources.documents([sources.Source.parse(text)], Tally()))
  windows = WindowEncoder(spec, _LONGEST).first_windows(texts)
  sentences = [
    (sentence, ids)
    for sentence, own in zip(texts, windows, strict=True)
    for ids in own
  ]
  if not sentences:
    raise UserError("--text holds no sentence.")
  return sentences


def draw(
  sentences: Sequence[tuple[str, np.ndarray]],
  size: int,
  count: int,
  pad_id: int,
) -> list[SentenceBatch]:
  """Draws batches of random sentences, the same whenever it is called.

  Args:
    sentences: texts and their token ids.
    size: number of sentences in a batch.
    count: number of batches.
    pad_id: token id of padding.
  """
  random = np.random.default_rng(0)
  return [
    _pad(
      [sentences[i] for i in random.integers(len(sentences), size=size)], pad_id
    )
    for _ in range(count)
  ]


def _pad(
  sentences: Sequence[tuple[str, np.ndarray]], pad_id: int
) -> SentenceBatch:
  """Returns rows as long as the longest sentence, a multiple of 8."""
  texts, ids = zip(*sentences, strict=True)
  length = -(-max(map(len, ids)) // _STEP) * _STEP
  tokens = np.full((len(ids), length), pad_id, np.int64)
  mask = np.zeros((len(ids), length), np.int64)
  for row, own in enumerate(ids):
    tokens[row, : len(own)], mask[row, : len(own)] = own, 1
  return SentenceBatch(list(texts), tokens, mask)
