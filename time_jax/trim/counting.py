"""Counting the tokens of text, and comparing two tokenizers on it."""

import collections
import dataclasses
import itertools
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from time_jax.data.tokenizing import (
  TokenizerSpec,
  batches,
  load_backend,
  text_parts,
)


@dataclasses.dataclass(frozen=True)
class Counts:
  """Counts of a text.

  Attributes:
    documents: number of documents.
    tokens: how often each id occurs [V], without the special tokens that are
      put around documents.
    document_frequency: in how many documents each id occurs [V].
    characters: character -> how often it occurs.
  """

  documents: int
  tokens: NDArray[np.int64]
  document_frequency: NDArray[np.int64]
  characters: Mapping[str, int]


def count(spec: TokenizerSpec, documents: Iterable[str]) -> Counts:
  """Counts the tokens and characters of a text.

  Args:
    spec: the tokenizer.
    documents: the text, read once.
  """
  backend = load_backend(spec)
  tokens, document_frequency = np.zeros((2, spec.vocab_size), np.int64)
  characters: collections.Counter[str] = collections.Counter()
  number = 0
  for batch in batches(documents):
    number += len(batch)
    parts = [text_parts(text) for text in batch]
    encodings = iter(
      backend.encode_batch_fast(
        list(itertools.chain.from_iterable(parts)), add_special_tokens=False
      )
    )
    for text, own_parts in zip(batch, parts, strict=True):
      characters.update(text)
      own = itertools.islice(encodings, len(own_parts))
      ids = np.array([i for encoding in own for i in encoding.ids], np.int64)
      unique, counts = np.unique(ids, return_counts=True)
      tokens[unique] += counts
      document_frequency[unique] += 1
  return Counts(number, tokens, document_frequency, characters)


@dataclasses.dataclass
class Comparison:
  """How a whole and a trimmed tokenizer read the same text.

  Attributes:
    documents: number of documents compared.
    words: number of words, separated by whitespace.
    tokens: number of tokens of the whole tokenizer.
    tokens_after: number of tokens of the trimmed one.
    unreadable: tokens of the whole one that stand for unknown text.
    unreadable_after: likewise of the trimmed one.
    same_tokens: tokens of the whole one that the trimmed one has in the same
      place.
    same_documents: documents all of whose tokens are the same.
  """

  documents: int = 0
  words: int = 0
  tokens: int = 0
  tokens_after: int = 0
  unreadable: int = 0
  unreadable_after: int = 0
  same_tokens: int = 0
  same_documents: int = 0

  @property
  def share_of_tokens(self) -> float:
    """The share of the whole tokenizer's tokens that stay the same."""
    return self.same_tokens / max(self.tokens, 1)


Token = tuple[int, int, int, int]  # part of the document, start, end, id


def compare(
  spec: TokenizerSpec,
  trimmed: TokenizerSpec,
  old_ids: Sequence[int],
  documents: Iterable[str],
  unreadable: Container[int],
) -> Comparison:
  """Compares a tokenizer with one that has only some of its tokens.

  Args:
    spec: the whole tokenizer.
    trimmed: the trimmed one.
    old_ids: id of the trimmed one -> id of the whole one.
    documents: the text, read once.
    unreadable: the whole one's ids for unknown text.
  """
  whole, fewer = load_backend(spec), load_backend(trimmed)
  c = Comparison()
  for text in documents:
    parts = text_parts(text)
    before = _tokens(whole, parts, range(spec.vocab_size))
    after = _tokens(fewer, parts, old_ids)
    same = collections.Counter(before) & collections.Counter(after)
    c.documents += 1
    c.words += len(text.split())
    c.tokens += len(before)
    c.tokens_after += len(after)
    c.unreadable += sum(token[-1] in unreadable for token in before)
    c.unreadable_after += sum(token[-1] in unreadable for token in after)
    c.same_tokens += same.total()
    c.same_documents += before == after
  return c


def _tokens(
  backend: tokenizers.Tokenizer, parts: Sequence[str], ids: Sequence[int]
) -> list[Token]:
  encodings = backend.encode_batch(list(parts), add_special_tokens=False)
  return [
    (number, start, end, ids[token_id])
    for number, encoding in enumerate(encodings)
    for (start, end), token_id in zip(
      encoding.offsets, encoding.ids, strict=True
    )
  ]
