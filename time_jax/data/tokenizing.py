"""Documents to windows of token ids, each with its special tokens."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from time_jax.core import errors

# Tokenizers take more than linear time on very long strings.
_LONGEST_PART = 200_000
# Bounds the memory for tokenised text that was not yet turned into arrays.
_BATCH_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
  """A tokenizer and the table of embeddings that its ids must stay within.

  Attributes:
    backend: JSON text of a `tokenizers.Tokenizer` (`tokenizer.json`).
    pad_id: id of the token in free places.
    vocab_size: rows of the teacher's token table; every id is below it.
    name: what error messages call the tokenizer, such as its path.
  """

  backend: str
  pad_id: int
  vocab_size: int
  name: str = "tokenizer"

  @functools.cached_property
  def sha256(self) -> str:
    """The hash of the JSON text: other bytes may mean other tokens."""
    return hashlib.sha256(self.backend.encode()).hexdigest()


class WindowEncoder:
  """Cuts documents into windows of at most `seq_len` tokens.

  Each window carries the special tokens that the tokenizer puts around a
  text. A document that spells a special token, such as "</s>", never yields
  that token's id.
  """

  def __init__(self, spec: TokenizerSpec, seq_len: int) -> None:
    """Builds the tokenizer.

    Args:
      spec: the tokenizer; its own padding and truncation are ignored.
      seq_len: tokens in a window at most, special tokens included.
    """
    self._spec, self._seq_len = spec, seq_len
    self._tokenizer = load_backend(spec)
    self._before, self._after = _special_ids_around(self._tokenizer)
    num_special = len(self._before) + len(self._after)
    if seq_len <= num_special:
      raise errors.UserError(
        f"{seq_len=} leaves no room for text: {spec.name} puts "
        f"{num_special} special tokens around each; expected at least "
        f"{num_special + 1}; raise data.seq_len"
      )
    self._room = seq_len - num_special
    self._forbidden = forbidden_ids(self._tokenizer)

  def __reduce__(self) -> tuple[Any, ...]:
    """Sends what it is built of: a pickled tokenizer forgets a setting."""
    return type(self), (self._spec, self._seq_len)

  def all_windows(
    self, documents: Iterable[str]
  ) -> Iterator[list[NDArray[np.int32]]]:
    """Yields for each document its windows, which hold all of its tokens."""
    for batch in batches(documents):
      parts = [text_parts(document) for document in batch]
      # Windows are cut from arrays: as objects of the tokenizer they would
      # take as long as a tenth of the tokenising.
      encodings = iter(
        self._tokenizer.encode_batch_fast(
          list(itertools.chain(*parts)), add_special_tokens=False
        )
      )
      for document_parts in parts:
        own = itertools.islice(encodings, len(document_parts))
        yield self._windows([encoding.ids for encoding in own])

  def first_windows(
    self, documents: Iterable[str]
  ) -> Iterator[list[NDArray[np.int32]]]:
    """Yields for each document its first window only: the rest is cut off."""
    heads = (
      text_parts(document[: _LONGEST_PART + 1])[0] for document in documents
    )
    return (windows[:1] for windows in self.all_windows(heads))

  def _windows(self, parts: list[list[int]]) -> list[NDArray[np.int32]]:
    ids = np.array(list(itertools.chain(*parts)), np.int32)
    if len(ids) and (highest := int(ids.max())) >= self._spec.vocab_size:
      raise errors.UserError(
        f"{self._spec.name} gives the id {highest} "
        f"({self._tokenizer.id_to_token(highest)!r}), but the teacher's token "
        f"table has {self._spec.vocab_size} rows; expected smaller ids; use "
        "the tokenizer that belongs to the teacher"
      )
    # Some vocabularies list the special tokens as ordinary pieces too.
    ids = ids[~self._forbidden[ids]]
    return [
      np.concatenate(
        [self._before, ids[start : start + self._room], self._after]
      )
      for start in range(0, len(ids), self._room)
    ]


def _special_ids_around(
  tokenizer: tokenizers.Tokenizer,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
  """Returns the ids that a tokenizer puts before and after every text."""
  # Any text will do that has tokens at all.
  encoding = tokenizer.encode("a 1 \u8a9e")
  special = np.array(encoding.special_tokens_mask, bool)
  ids = np.array(encoding.ids, np.int32)
  text = np.flatnonzero(~special)
  start, end = (text[0], text[-1] + 1) if len(text) else (len(ids), len(ids))
  return ids[:start], ids[end:]


def load_backend(spec: TokenizerSpec) -> tokenizers.Tokenizer:
  """Builds a tokenizer that neither pads nor cuts nor reads special tokens.

  Raises:
    UserError: the JSON is no tokenizer, or the padding has no row in the token
      table.
  """
  try:
    tokenizer = tokenizers.Tokenizer.from_str(spec.backend)
  except Exception as error:
    raise errors.UserError(
      f"{spec.name} is not a tokenizer: {error}; expected the content of a "
      "tokenizer.json"
    ) from error
  if not 0 <= spec.pad_id < spec.vocab_size:
    raise errors.UserError(
      f"{spec.name} pads with the id {spec.pad_id}, but the teacher's token "
      f"table has {spec.vocab_size} rows; expected an id within it"
    )
  tokenizer.no_padding()
  tokenizer.no_truncation()
  tokenizer.encode_special_tokens = True
  return tokenizer


def forbidden_ids(tokenizer: tokenizers.Tokenizer) -> NDArray[np.bool_]:
  """Returns a mask of the ids that no text gives: special, but not unknown."""
  added = tokenizer.get_added_tokens_decoder()
  ids = {i for i, token in added.items() if token.special}
  ids |= set(tokenizer.encode("").ids)
  model = json.loads(tokenizer.to_str())["model"]
  unknown = model.get("unk_id")
  if unknown is None and model.get("unk_token"):
    unknown = tokenizer.token_to_id(model["unk_token"])
  known_ids = tokenizer.get_vocab(with_added_tokens=True).values()
  forbidden = np.zeros(max(known_ids, default=0) + 1, bool)
  forbidden[sorted(ids - {unknown})] = True
  return forbidden


def text_parts(document: str) -> list[str]:
  """Cuts a document of over 200,000 characters, at whitespace if possible.

  Args:
    document: text.

  Returns:
    The parts that are tokenised on their own; nearly always the document.
  """
  parts = []
  start = 0
  while len(document) - start > _LONGEST_PART:
    end = start + _LONGEST_PART
    space = max(document.rfind(mark, start + 1, end) for mark in " \n\t")
    end = space if space > 0 else end
    parts.append(document[start:end])
    start = end
  return [*parts, document[start:]]


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
  """Yields lists of documents that stay small in memory when tokenised."""
  batch: list[str] = []
  size = 0
  for document in documents:
    batch.append(document)
    size += len(document)
    if size >= _BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
