"""The tokens of a tokenizer.json: which must stay, and the file with fewer.

Taking a token away changes no text that did not use it:

* Unigram takes the best of all segmentations. That of such a text is still
  there, with the same score, and none is new, but for one case: a character
  that lost its own piece can be unknown, at the lowest score of all pieces
  less ten. That is below what its own piece had, as long as the lowest score
  is what it was. So the piece of the lowest score stays (and that of the
  highest, from which SentencePiece scores pieces that users defined). Equal
  scores are decided by the order of the candidates, which stays.
* WordPiece takes the longest piece that fits: those that were longer did not
  fit before. A word that it did not know at all may become known.
* Byte-pair encoding makes the merge of the lowest rank, again and again. All
  merges that such a text needs are there (see `ancestors`), and none is new.

Ids keep their order, so what other files compute from it (the mask after the
last piece, XLM-R's distance between SentencePiece's ids and its own) holds.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, pre_tokenizers

from time_jax.core.errors import UserError

# Configs, and the classes of transformers, know the first ids by number.
_FIRST = 8
_MARKS = "▁ "  # before the first piece of a word
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_KINDS = ("Unigram", "WordPiece", "BPE")
_BYTE_LEVEL = decoders.ByteLevel()
# The characters that stand for bytes.
_ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())

Pair = tuple[str, str]


class Vocabulary:
  """The tokens of a tokenizer.

  Attributes:
    kind: kind of its model: Unigram, WordPiece or BPE.
    ids: token -> id, of the model's tokens and of those added to them.
    tokens: id -> token.
    unreadable: ids for text that has no token of its own: the unknown token,
      and bytes of characters beyond ASCII.
    fixed: ids of the tokens that stay whatever the text is.
  """

  def __init__(self, text: str, name: str) -> None:
    """Reads a tokenizer.

    Args:
      text: content of a tokenizer.json, all ids within the embedding table.
      name: what error messages call it.

    Raises:
      UserError: its model is of a kind that cannot be trimmed.
    """
    self._text = text
    content = json.loads(text)
    self._model = content["model"]
    backend = tokenizers.Tokenizer.from_str(text)
    self.kind = type(backend.model).__name__
    self._check(name)
    self.ids = backend.get_vocab(with_added_tokens=True)
    self.tokens = {i: token for token, i in self.ids.items()}
    self._added = set(backend.get_added_tokens_decoder())
    splitting = [content.get("pre_tokenizer"), content.get("normalizer")]
    self._of_bytes = '"ByteLevel"' in json.dumps(splitting)
    is_byte = _ALPHABET.__contains__ if self._of_bytes else _BYTE.fullmatch
    self._bytes = {i for i, t in self.tokens.items() if is_byte(t)}
    unknown = self.ids.get(self._model.get("unk_token"))
    if self.kind == "Unigram":
      unknown = self._model.get("unk_id")
    self._unknown = {unknown} - {None}
    self.unreadable = self._unknown | {
      i
      for i in self._bytes
      if not self._of_bytes or not self._plain(self.tokens[i])
    }
    self.fixed = self._fixed(content)

  def _check(self, name: str) -> None:
    odd = [
      f"{self.kind} with {key}"
      for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
      if self.kind == "BPE" and self._model.get(key)
    ]
    if self.kind not in _KINDS or odd:
      raise UserError(
        f"{name} is {odd[0] if odd else self.kind}, which cannot be trimmed; "
        f"expected one of {', '.join(_KINDS)} as BERT, XLM-R and RoBERTa have "
        "them."
      )

  def _fixed(self, content: dict[str, Any]) -> set[int]:
    fixed = self._added | self._bytes | self._unknown | set(range(_FIRST))
    _renumber(content.get("post_processor"), lambda i: fixed.add(i) or i)
    if content.get("padding"):
      fixed.add(content["padding"]["pad_id"])
    fixed |= {i for i, t in self.tokens.items() if self._plain(t) in [*_MARKS]}
    fixed &= set(self.tokens)
    if self.kind == "Unigram":
      scores = [score for _, score in self._model["vocab"]]
      others = [i for i in range(len(scores)) if i not in fixed]
      fixed |= {f(others, key=scores.__getitem__) for f in (min, max) if others}
    return fixed

  def text(self, token_id: int) -> str:
    """Returns a token's text without marks, "" if it is no whole character."""
    prefix = self._model.get("continuing_subword_prefix") or ""
    return self.spelling(token_id).removeprefix(prefix).lstrip(_MARKS)

  def spelling(self, token_id: int) -> str:
    """Returns a token's text with marks, "" if it is no whole character."""
    return self._plain(self.tokens[token_id])

  def log_probability(self, token_id: int) -> float:
    """Returns the logarithm of a token's share of the training text.

    Unigram's scores are that. Merges and WordPiece's tokens are numbered as
    they were found, frequent ones first: by Zipf's law a token's share, of a
    sum that is not 1, is one by its number.

    Args:
      token_id: id of a token of the model.
    """
    if self.kind == "Unigram" and token_id < len(self._model["vocab"]):
      return self._model["vocab"][token_id][1]
    return -math.log1p(token_id)

  def _plain(self, token: str) -> str:
    """Returns a token as text, "" where its bytes are no whole characters."""
    plain = _BYTE_LEVEL.decode([token]) if self._of_bytes else token
    return "" if "\ufffd" in plain else plain

  def needed(self, token_id: int) -> set[int]:
    """Returns ids of the tokens without which this is never made, and its own.

    Args:
      token_id: id of the token.
    """
    if self.kind != "BPE" or token_id in self._added:
      return {token_id}
    tokens = ancestors(
      self.tokens[token_id], self._merge_ranks, self._model["vocab"]
    )
    return {self.ids[token] for token in tokens}

  @functools.cached_property
  def _merge_ranks(self) -> Mapping[Pair, int]:
    return {_pair(merge): i for i, merge in enumerate(self._model["merges"])}

  def cut(self, old_ids: Sequence[int]) -> dict[str, Any]:
    """Returns the content of a tokenizer.json with only some of the tokens.

    Args:
      old_ids: ids of these tokens, in order; an id's place is the new id. They
        include all `fixed`, and with a token what it needs.
    """
    new = {old: i for i, old in enumerate(old_ids)}
    content = json.loads(self._text)
    for token in content.get("added_tokens") or []:
      token["id"] = new[self.ids[token["content"]]]
    if padding := content.get("padding"):
      padding["pad_id"] = new.get(padding["pad_id"], 0)
    _renumber(content.get("post_processor"), new.__getitem__)
    model = content["model"]
    if self.kind == "Unigram":
      model["vocab"] = [e for i, e in enumerate(model["vocab"]) if i in new]
      if model.get("unk_id") is not None:
        model["unk_id"] = new[model["unk_id"]]
      return content
    model["vocab"] = {t: new[i] for t, i in model["vocab"].items() if i in new}
    if self.kind == "BPE":
      pairs = ((merge, _pair(merge)) for merge in model["merges"])
      model["merges"] = [
        merge
        for merge, pair in pairs
        if {*pair, "".join(pair)} <= model["vocab"].keys()
      ]
    return content


def ancestors(
  token: str, ranks: Mapping[Pair, int], vocabulary: Collection[str]
) -> set[str]:
  """Returns every token that occurs while merges make a token, and itself.

  A piece whose ancestors are gone is never made: "the" is t + h, then th + e,
  and so needs "th". Which merges make a token does not depend on its
  neighbours: none of them crosses the token's ends, or it would not have been a
  token, and inside of it the merge of the lowest rank comes first, as
  everywhere. So the merges are run on the token alone.

  Args:
    token: a token. One that no merges make, since it is only ever found whole,
      needs nothing else.
    ranks: pair of pieces -> rank of the merge that joins them.
    vocabulary: all tokens of the model.
  """
  parts, seen = list(token), set(token)
  while len(parts) > 1:
    candidates = [
      (ranks[pair], place)  # The leftmost of equals.
      for place, pair in enumerate(itertools.pairwise(parts))
      if pair in ranks
    ]
    if not candidates:
      return {token}
    _, place = min(candidates)
    parts[place : place + 2] = [parts[place] + parts[place + 1]]
    seen.add(parts[place])
  # What is no token falls back to bytes, which always stay.
  return {piece for piece in seen if piece in vocabulary}


def _pair(merge: Sequence[str] | str) -> Pair:
  """Returns the parts that a merge joins: ["a", "b"], in older files "a b"."""
  first, second = merge.split(" ") if isinstance(merge, str) else merge
  return first, second


def _renumber(node: Any, change: Callable[[int], int]) -> None:
  """Changes every id in a post-processor, at any depth."""
  children: Iterable[Any] = ()
  if isinstance(node, list):
    children = node
  elif isinstance(node, dict):
    children = node.values()
    for key, value in node.items():
      if key == "ids":  # of a template's special tokens
        node[key] = [change(i) for i in value]
      elif key in ("sep", "cls"):  # of BERT's and RoBERTa's
        node[key] = [value[0], change(value[1])]
  for child in children:
    _renumber(child, change)
