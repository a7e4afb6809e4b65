"""Batches of real sentences, the same for everything that is measured."""

from collections.abc import Sequence

import numpy as np

from time_jax.core.errors import UserError
from time_jax.data import sources
from time_jax.data.records import Tally
from time_jax.data.tokenizing import TokenizerSpec, WindowEncoder

Rows = tuple[np.ndarray, np.ndarray]  # tokens, mask: (B, T)
_STEP = 8  # Lengths are rounded up to its multiples: few shapes to compile.
_LONGEST = 512


def read(text: str, spec: TokenizerSpec) -> tuple[list[str], list[np.ndarray]]:
  """Sentences, and the token ids of each, cut off at 512.

  Args:
    text: a source, a sentence a document.
    spec: the tokenizer.

  Raises:
    UserError: there is no such text, or nothing in it.
  """
  found = list(sources.documents([sources.Source.parse(text)], Tally()))
  windows = WindowEncoder(spec, _LONGEST).first_windows(found)
  pairs = [
    (sentence, ids)
    for sentence, some in zip(found, windows, strict=True)
    for ids in some
  ]
  if not pairs:
    raise UserError("--text holds no sentence.")
  texts, tokens = zip(*pairs, strict=True)
  return list(texts), list(tokens)


def drawn(total: int, size: int, count: int) -> list[list[int]]:
  """Numbers of the sentences of each batch, drawn at random.

  Args:
    total: sentences there are.
    size: of a batch.
    count: of batches.
  """
  random = np.random.default_rng(0)
  return [random.integers(total, size=size).tolist() for _ in range(count)]


def pad(sentences: Sequence[np.ndarray], pad_id: int) -> Rows:
  """A row for each, as long as the longest, a multiple of 8.

  Args:
    sentences: token ids of each.
    pad_id: for free places.
  """
  length = -(-max(map(len, sentences)) // _STEP) * _STEP
  tokens = np.full((len(sentences), length), pad_id, np.int64)
  mask = np.zeros((len(sentences), length), np.int64)
  for row, ids in enumerate(sentences):
    tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
  return tokens, mask
