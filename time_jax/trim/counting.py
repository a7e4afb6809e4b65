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
  """What there is in some text.

  Attributes:
    documents: that were read.
    tokens: how often each id occurs [V], without what is put around documents.
    spread: in how many documents each id occurs [V].
    characters: how often each of them occurs.
  """

  documents: int
  tokens: NDArray[np.int64]
  spread: NDArray[np.int64]
  characters: Mapping[str, int]


def count(spec: TokenizerSpec, documents: Iterable[str]) -> Counts:
  """Counts tokens and characters.

  Args:
    spec: the tokenizer.
    documents: text, read once.
  """
  backend = load_backend(spec)
  tokens, spread = np.zeros((2, spec.vocab_size), np.int64)
  characters: collections.Counter[str] = collections.Counter()
  number = 0
  for batch in batches(documents):
    number += len(batch)
    for text in batch:
      characters.update(text)
    parts = [text_parts(text) for text in batch]
    whole = list(itertools.chain.from_iterable(parts))
    found = iter(backend.encode_batch_fast(whole, add_special_tokens=False))
    for own in parts:
      ids = [
        i
        for encoding in itertools.islice(found, len(own))
        for i in encoding.ids
      ]
      unique, counts = np.unique(np.array(ids, np.int64), return_counts=True)
      tokens[unique] += counts
      spread[unique] += 1
  return Counts(number, tokens, spread, characters)


@dataclasses.dataclass
class Comparison:
  """What a tokenizer and the same with fewer tokens make of the same text.

  Attributes:
    documents: compared.
    words: separated by whitespace.
    tokens: of the whole tokenizer.
    tokens_after: of the one with fewer.
    unreadable: tokens of the whole one for what it has no token for.
    unreadable_after: of the one with fewer.
    same_tokens: tokens of the whole one that the other has in the same place.
    same_documents: documents with the same tokens all through.
  """

  documents: int = 0
  words: int = 0
  tokens: int = 0
  tokens_after: int = 0
  unreadable: int = 0
  unreadable_after: int = 0
  same_tokens: int = 0
  same_documents: int = 0

  def add(
    self, text: str, before: Sequence["Token"], after: Sequence["Token"]
  ) -> None:
    """Counts a document in; ids in `after` are the whole tokenizer's."""
    same = collections.Counter(before) & collections.Counter(after)
    self.documents += 1
    self.words += len(text.split())
    self.tokens += len(before)
    self.tokens_after += len(after)
    self.same_tokens += same.total()
    self.same_documents += list(before) == list(after)


Token = tuple[int, int, int, int]  # part of the document, start, end, id


def compare(
  spec: TokenizerSpec,
  fewer: TokenizerSpec,
  old_ids: Sequence[int],
  documents: Iterable[str],
  unreadable: Container[int],
) -> Comparison:
  """Compares a tokenizer with one that knows only some of its tokens.

  Args:
    spec: the whole tokenizer.
    fewer: the other one.
    old_ids: its ids -> those of the whole one.
    documents: text, read once.
    unreadable: the whole one's ids for what it has no token for.
  """
  whole, other = load_backend(spec), load_backend(fewer)
  found = Comparison()
  for text in documents:
    parts = text_parts(text)
    before = _tokens(whole, parts, range(spec.vocab_size))
    after = _tokens(other, parts, old_ids)
    found.add(text, before, after)
    found.unreadable += sum(token[-1] in unreadable for token in before)
    found.unreadable_after += sum(token[-1] in unreadable for token in after)
  return found


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
