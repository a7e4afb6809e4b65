"""Tokenises sentences, given as words, into chunks that fit an encoder."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers
from jaxtyping import Int

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.data.tokenizing import TokenizerSpec, forbidden_ids, load_backend


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A sentence, or consecutive words of one that is too long.

  Attributes:
    sentence: number of the sentence.
    start: number of its first word in the sentence, from 0.
    num_words: number of its words.
    tokens: token ids, special ones included.
    word_of_token: the word of each token, numbered from 1 within the chunk; 0
      for special tokens.
  """

  sentence: int
  start: int
  num_words: int
  tokens: Int[np.ndarray, " t"]
  word_of_token: Int[np.ndarray, " t"]


class WordTokenizer:
  """Turns sentences into chunks of at most `longest` tokens.

  A sentence is tokenised as its words with single spaces between them, and a
  token belongs to the word that its last character lies in. A word that the
  tokenizer leaves without any token gets the unknown one.
  """

  def __init__(self, spec: TokenizerSpec, longest: int) -> None:
    """Builds the tokenizer.

    Args:
      spec: the tokenizer.
      longest: tokens of a chunk at most.
    """
    self._backend = load_backend(spec)
    self._forbidden = forbidden_ids(self._backend)
    self._longest = longest
    special = self._backend.encode("").ids
    marks = self._backend.encode("a").special_tokens_mask
    first = marks.index(0) if 0 in marks else len(special)
    self._before, self._after = special[:first], special[first:]
    self._unknown = _unknown_id(self._backend, spec.pad_id)
    if longest <= len(special):
      raise UserError(
        f"{longest} tokens leave no room for words: {spec.name} puts "
        f"{len(special)} special ones around them; expected at least "
        f"{len(special) + 1}."
      )

  def chunks(self, sentences: Sequence[Sequence[str]]) -> list[Chunk]:
    """Tokenises sentences, given as words, and notes those too long."""
    texts = [" ".join(words) for words in sentences]
    encodings = self._backend.encode_batch(texts, add_special_tokens=False)
    room = self._longest - len(self._before) - len(self._after)
    chunks, num_long, num_cut = [], 0, 0
    for number, (words, encoding) in enumerate(
      zip(sentences, encodings, strict=True)
    ):
      ids = self._ids_of_words(words, encoding)
      num_cut += sum(len(some) > room for some in ids)
      ids = [some[:room] for some in ids]
      spans = list(_spans([len(some) for some in ids], room))
      num_long += len(spans) > 1
      for start, stop in spans:
        chunks.append(self._chunk(number, start, ids[start:stop]))
    if num_long or num_cut:
      note(
        f"{num_long} sentences have more than the "
        f"{self._longest} tokens that the encoder takes, and are read in parts"
        + (f"; {num_cut} words are cut off" if num_cut else "")
        + "."
      )
    return chunks

  def _ids_of_words(
    self, words: Sequence[str], encoding: tokenizers.Encoding
  ) -> list[list[int]]:
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    ids: list[list[int]] = [[] for _ in words]
    for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
      # A token of the space alone belongs to the word after it.
      word = int(np.searchsorted(ends, end, side="left"))
      if not self._forbidden[token]:
        ids[min(word, len(words) - 1)].append(token)
    return [some or [self._unknown] for some in ids]

  def _chunk(
    self, sentence: int, start: int, ids: Sequence[Sequence[int]]
  ) -> Chunk:
    parts = [self._before, *ids, self._after]
    tokens = np.array([*itertools.chain(*parts)], np.int32)
    words = np.array([0, *range(1, len(ids) + 1), 0], np.int32)
    owners = np.repeat(words, [*map(len, parts)])
    return Chunk(sentence, start, len(ids), tokens, owners)


def _unknown_id(backend: tokenizers.Tokenizer, pad_id: int) -> int:
  """Returns the id for a word without tokens: unknown, or else padding."""
  model = json.loads(backend.to_str())["model"]
  unknown = model.get("unk_id")
  if unknown is None and model.get("unk_token"):
    unknown = backend.token_to_id(model["unk_token"])
  return pad_id if unknown is None else unknown


def _spans(lengths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
  """Yields ranges of words with at most `room` tokens, as full as can be."""
  start, used = 0, 0
  for i, length in enumerate(lengths):
    if used + length > room:
      yield start, i
      start, used = i, 0
    used += length
  yield start, len(lengths)
