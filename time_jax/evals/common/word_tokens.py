"""Tokenises sentences, given as words, into chunks that fit an encoder."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers
from jaxtyping import Int

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.data.tokenizing import (
  TokenizerSpec,
  batches,
  forbidden_ids,
  load_backend,
)

Labels = Mapping[str, Int[np.ndarray, " words"]]  # name -> number of each label


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

  @property
  def first_tokens(self) -> Int[np.ndarray, " words"]:
    """The place of each word's first token."""
    return np.flatnonzero(np.diff(self.word_of_token, prepend=0) > 0)


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
    self._before = np.array(special[:first], np.int32)
    self._after = np.array(special[first:], np.int32)
    self._unknown = _unknown_id(self._backend, spec.pad_id)
    if longest <= len(special):
      raise UserError(
        f"{longest} tokens leave no room for words: {spec.name} puts "
        f"{len(special)} special ones around them; expected at least "
        f"{len(special) + 1}."
      )

  def chunks(
    self, sentences: Sequence[Sequence[str]], *, windows: bool = False
  ) -> list[Chunk]:
    """Tokenises sentences, given as words, and notes that some are too long.

    Args:
      sentences: the words of each.
      windows: whether these are parts of a text rather than sentences; then
        nobody needs to know that some are read in parts themselves.
    """
    room = self._longest - len(self._before) - len(self._after)
    chunks: list[Chunk] = []
    number, any_long, any_cut = 0, False, False
    # The tokens of a whole file at once would fill the memory.
    for texts in batches(" ".join(words) for words in sentences):
      some = sentences[number : number + len(texts)]
      ids, lengths = self._tokens_of_words(some, texts)
      any_cut |= bool((lengths > room).any())
      ids, lengths = _cut(ids, lengths, room)
      ends = np.cumsum(lengths)
      word, token = 0, 0  # where the next chunk begins in `some`
      for words in some:
        spans = _spans(lengths[word : word + len(words)].tolist(), room)
        any_long |= len(spans) > 1
        for start, stop in spans:
          until = ends[word + stop - 1] if stop else token
          own = lengths[word + start : word + stop]
          chunks.append(self._chunk(number, start, ids[token:until], own))
          token = until
        word, number = word + len(words), number + 1
    # Without counts, so that each is said once however long the text is.
    if any_long and not windows:
      note(
        f"sentences of more than the {self._longest} tokens that the encoder "
        "takes are read in parts."
      )
    if any_cut:
      note(
        f"words of more than {room} tokens, the most that the encoder takes of "
        "one word, are cut off after these."
      )
    return chunks

  def _tokens_of_words(
    self, sentences: Sequence[Sequence[str]], texts: Sequence[str]
  ) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " words"]]:
    """Returns the ids of all words, word by word, and how many each has."""
    encodings = self._backend.encode_batch(texts, add_special_tokens=False)
    sizes = [len(encoding) for encoding in encodings]
    ids = _array((encoding.ids for encoding in encodings), sum(sizes))
    offsets = (encoding.offsets for encoding in encodings)
    ends = _array(([end for _, end in some] for some in offsets), sum(sizes))
    # Places count through all texts, with one between any two words.
    counts = np.array([len(words) for words in sentences])
    num_words = int(counts.sum())
    spaced = _array(
      ([len(w) + 1 for w in words] for words in sentences), num_words
    )
    starts = np.concatenate([[0], np.cumsum(spaced)])
    last_word = np.cumsum(counts) - 1
    text_starts = starts[last_word + 1 - counts]
    # A token of the space alone belongs to the word after it.
    places = ends + np.repeat(text_starts, sizes)
    owners = np.searchsorted(starts[1:] - 1, places, side="left")
    owners = np.minimum(owners, np.repeat(last_word, sizes))
    kept = ~self._forbidden[ids]
    ids, owners = ids[kept], owners[kept]
    lacking = np.flatnonzero(np.bincount(owners, minlength=num_words) == 0)
    ids = np.concatenate([ids, np.full(len(lacking), self._unknown)])
    owners = np.concatenate([owners, lacking])
    order = np.argsort(owners, kind="stable")
    lengths = np.bincount(owners, minlength=num_words)
    return ids[order].astype(np.int32), lengths

  def _chunk(
    self,
    sentence: int,
    start: int,
    ids: Int[np.ndarray, " t"],
    lengths: Int[np.ndarray, " words"],
  ) -> Chunk:
    tokens = np.concatenate([self._before, ids, self._after])
    owners = np.zeros(len(tokens), np.int32)
    numbers = np.arange(1, len(lengths) + 1)
    owners[len(self._before) :][: len(ids)] = np.repeat(numbers, lengths)
    return Chunk(sentence, start, len(lengths), tokens, owners)


def _unknown_id(backend: tokenizers.Tokenizer, pad_id: int) -> int:
  """Returns the id for a word without tokens: unknown, or else padding."""
  model = json.loads(backend.to_str())["model"]
  unknown = model.get("unk_id")
  if unknown is None and model.get("unk_token"):
    unknown = backend.token_to_id(model["unk_token"])
  return pad_id if unknown is None else unknown


def _array(parts: Iterable[Iterable[int]], count: int) -> Int[np.ndarray, " n"]:
  """Returns the numbers of all parts, `count` together."""
  return np.fromiter(itertools.chain.from_iterable(parts), np.int64, count)


def _cut(
  ids: Int[np.ndarray, " t"], lengths: Int[np.ndarray, " words"], room: int
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " words"]]:
  """Keeps at most `room` tokens of each word."""
  if lengths.max(initial=0) <= room:
    return ids, lengths
  starts = np.cumsum(lengths) - lengths
  ranks = np.arange(len(ids)) - np.repeat(starts, lengths)
  return ids[ranks < room], np.minimum(lengths, room)


def _spans(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
  """Returns ranges of words with at most `room` tokens, as full as can be."""
  spans = []
  start, used = 0, 0
  for i, length in enumerate(lengths):
    if used + length > room:
      spans.append((start, i))
      start, used = i, 0
    used += length
  return [*spans, (start, len(lengths))]
