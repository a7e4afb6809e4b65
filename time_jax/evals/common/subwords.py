"""Sentences as words -> pieces of tokens that fit into an encoder."""

import dataclasses
import functools
import json
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from jaxtyping import Int

from time_jax.core.errors import UserError
from time_jax.data.tokenizing import TokenizerSpec, forbidden_ids, load_backend


@dataclasses.dataclass(frozen=True)
class Piece:
  """A sentence, or consecutive words of one that is too long.

  Attributes:
    sentence: its number.
    start: its first word in the sentence.
    num_words: words in it.
    tokens: ids, special ones included.
    word_of_token: of every token, its word in the piece from 1; 0: of none.
  """

  sentence: int
  start: int
  num_words: int
  tokens: Int[np.ndarray, " t"]
  word_of_token: Int[np.ndarray, " t"]


class Cutter:
  """Turns sentences into pieces of at most `longest` tokens.

  A sentence is tokenised as its words with single spaces between them, and a
  token belongs to the word that its last character lies in. A word that the
  tokenizer leaves without any token gets the unknown one.
  """

  def __init__(self, spec: TokenizerSpec, longest: int) -> None:
    """Builds the tokenizer.

    Args:
      spec: the tokenizer.
      longest: tokens of a piece at most.
    """
    self._backend = load_backend(spec)
    self._forbidden = forbidden_ids(self._backend)
    self._longest = longest
    around = self._backend.encode("", add_special_tokens=True)
    middle = self._backend.num_special_tokens_to_add(False)
    marked = self._backend.encode("a")
    first = next(
      (i for i, s in enumerate(marked.special_tokens_mask) if not s), middle
    )
    self._before, self._after = around.ids[:first], around.ids[first:]
    self._unknown = _unknown(self._backend, spec.pad_id)
    if longest <= middle:
      raise UserError(
        f"{longest} tokens leave no room for words: {spec.name} puts {middle} "
        f"special ones around them; expected at least {middle + 1}."
      )

  def pieces(self, sentences: Sequence[Sequence[str]]) -> list[Piece]:
    """Cuts sentences, given as their words, and says which were too long."""
    texts = [" ".join(words) for words in sentences]
    encodings = self._backend.encode_batch(texts, add_special_tokens=False)
    room = self._longest - len(self._before) - len(self._after)
    found, long, cut = [], 0, 0
    for number, (words, encoding) in enumerate(
      zip(sentences, encodings, strict=True)
    ):
      subwords = self._of_words(words, encoding)
      cut += sum(len(ids) > room for ids in subwords)
      subwords = [ids[:room] for ids in subwords]
      spans = list(_spans([len(ids) for ids in subwords], room))
      long += len(spans) > 1
      found += [
        self._piece(number, start, subwords[start:stop])
        for start, stop in spans
      ]
    if long or cut:
      _note(
        f"time_jax: note: {long} sentences have more than the {self._longest} "
        "tokens that the encoder takes, and are read in parts"
        + (f"; {cut} words are cut off" if cut else "")
        + "."
      )
    return found

  def _of_words(
    self, words: Sequence[str], encoding: tokenizers.Encoding
  ) -> list[list[int]]:
    """The ids of each word."""
    lengths = [len(word) for word in words]
    ends = np.cumsum(lengths) + np.arange(len(words))
    found: list[list[int]] = [[] for _ in words]
    for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
      # A space of its own belongs to the word behind it.
      word = int(np.searchsorted(ends, end, side="left"))
      if not self._forbidden[token]:
        found[min(word, len(words) - 1)].append(token)
    return [ids or [self._unknown] for ids in found]

  def _piece(
    self, sentence: int, start: int, subwords: Sequence[Sequence[int]]
  ) -> Piece:
    ids = [token for word in subwords for token in word]
    owners = [i for i, word in enumerate(subwords, 1) for _ in word]
    before, after = self._before, self._after
    return Piece(
      sentence,
      start,
      len(subwords),
      np.array([*before, *ids, *after], np.int32),
      np.array([*(0 for _ in before), *owners, *(0 for _ in after)], np.int32),
    )


@functools.cache  # Said once, not after every epoch.
def _note(text: str) -> None:
  print(text, file=sys.stderr)


def _unknown(backend: tokenizers.Tokenizer, pad_id: int) -> int:
  """The id for a word without tokens; padding's where there is no unknown."""
  model = json.loads(backend.to_str())["model"]
  found = model.get("unk_id")
  if found is None and model.get("unk_token"):
    found = backend.token_to_id(model["unk_token"])
  return pad_id if found is None else found


def _spans(lengths: Sequence[int], room: int) -> Iterable[tuple[int, int]]:
  """Ranges of words that hold at most `room` tokens, as full as can be."""
  start, used = 0, 0
  for i, length in enumerate(lengths):
    if used + length > room:
      yield start, i
      start, used = i, 0
    used += length
  yield start, len(lengths)
