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
  merges that such a text needs are there (see `merges.py`), and none is new.

Ids keep their order, so what other files compute from it (the mask behind the
last piece, XLM-R's distance between SentencePiece's ids and its own) holds.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, pre_tokenizers

from time_jax.core.errors import UserError
from time_jax.trim.merges import Merges, pair_of

# Configs, and the classes of transformers, know the first ids by number.
_FIRST = 8
_MARKS = "▁ "  # before the first piece of a word
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_KINDS = ("Unigram", "WordPiece", "BPE")


class Vocabulary:
  """The tokens of a tokenizer.

  Attributes:
    kind: of the model: Unigram, WordPiece or BPE.
    tokens: id -> token, also those added to the model's.
    unreadable: ids for what there is no token for: "unknown", and the bytes of
      characters beyond ASCII.
    fixed: ids of the tokens that stay whatever the text is.
  """

  def __init__(self, text: str, name: str) -> None:
    """Reads a tokenizer.

    Args:
      text: of a tokenizer.json, all ids within the embedding table.
      name: what error messages call it.

    Raises:
      UserError: its model is of a kind that cannot be cut.
    """
    self._text = text
    content = json.loads(text)
    self._model = content["model"]
    backend = tokenizers.Tokenizer.from_str(text)
    self.kind = type(backend.model).__name__
    self._check(name)
    self._ids = backend.get_vocab(with_added_tokens=True)
    self.tokens = {i: token for token, i in self._ids.items()}
    self._added = set(backend.get_added_tokens_decoder())
    splitting = json.dumps(
      [content.get("pre_tokenizer"), content.get("normalizer")]
    )
    self._of_bytes = '"ByteLevel"' in splitting
    self._bytes = {i for i, t in self.tokens.items() if self._is_byte(t)}
    self._unknown = self._find_unknown()
    self.unreadable = self._unknown | {
      i
      for i in self._bytes
      if not self._of_bytes or not self._plain(self.tokens[i])
    }
    self.fixed = self._fixed(content)

  def _check(self, name: str) -> None:
    odd = [
      key
      for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
      if self.kind == "BPE" and self._model.get(key)
    ]
    if self.kind not in _KINDS or odd:
      what = f"{self.kind} with {odd[0]}" if odd else self.kind
      raise UserError(
        f"{name} is {what}, which cannot be trimmed; expected one of "
        f"{', '.join(_KINDS)} as BERT, XLM-R and RoBERTa have them."
      )

  def _find_unknown(self) -> set[int]:
    found = self._ids.get(self._model.get("unk_token"))
    if self.kind == "Unigram":
      found = self._model.get("unk_id")
    return {found} - {None}

  def _is_byte(self, token: str) -> bool:
    if self._of_bytes:
      return token in _alphabet()
    return bool(_BYTE.fullmatch(token))

  def _fixed(self, content: dict[str, Any]) -> set[int]:
    fixed = self._added | self._bytes | self._unknown
    fixed |= {i for i in self.tokens if i < _FIRST}
    _renumber(content.get("post_processor"), lambda i: fixed.add(i) or i)
    if content.get("padding"):
      fixed.add(content["padding"]["pad_id"])
    fixed |= {i for i, t in self.tokens.items() if self._plain(t) in [*_MARKS]}
    fixed &= set(self.tokens)
    if self.kind == "Unigram":
      score = [score for _, score in self._model["vocab"]]
      others = [i for i in range(len(score)) if i not in fixed]
      fixed |= {f(others, key=score.__getitem__) for f in (min, max) if others}
    return fixed

  def text(self, token_id: int) -> str:
    """What a token stands for, but for marks; empty: no whole characters."""
    plain = self._plain(self.tokens[token_id])
    plain = plain.removeprefix(
      self._model.get("continuing_subword_prefix") or ""
    )
    return plain.lstrip(_MARKS)

  def rank(self, token_id: int) -> float:
    """Lower for tokens that were more frequent in the tokenizer's training.

    Unigram's scores are logarithms of probabilities; merges and WordPiece's
    tokens are numbered as they were found, frequent ones first.
    """
    if self.kind == "Unigram" and token_id < len(self._model["vocab"]):
      return -self._model["vocab"][token_id][1]
    return float(token_id)

  def _plain(self, token: str) -> str:
    """As text; empty where bytes are no whole characters."""
    plain = _BYTE_LEVEL.decode([token]) if self._of_bytes else token
    return "" if "\ufffd" in plain else plain

  def needed(self, token_id: int) -> set[int]:
    """Ids of the tokens without which this one is never made; its own too."""
    if self.kind != "BPE" or token_id in self._added:
      return {token_id}
    ancestors = self._merges.ancestors(self.tokens[token_id])
    return {self._ids[token] for token in ancestors}

  @functools.cached_property
  def _merges(self) -> Merges:
    return Merges(self._model["merges"], self._model["vocab"])

  def cut(self, old_ids: Sequence[int]) -> dict[str, Any]:
    """The content of the tokenizer.json that knows only some tokens.

    Args:
      old_ids: of these tokens, in order; an id's place is the new id. Has all
        `fixed`, and with a token what it needs.
    """
    new = {old: i for i, old in enumerate(old_ids)}
    content = json.loads(self._text)
    for token in content.get("added_tokens") or []:
      token["id"] = new[self._ids[token["content"]]]
    if content.get("padding"):
      padding = content["padding"]
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
      model["merges"] = [
        merge
        for merge in model["merges"]
        if _all_in(model["vocab"], pair_of(merge))
      ]
    return content


def _all_in(vocabulary: Mapping[str, int], pair: tuple[str, str]) -> bool:
  return all(piece in vocabulary for piece in (*pair, "".join(pair)))


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


_BYTE_LEVEL = decoders.ByteLevel()


@functools.cache
def _alphabet() -> frozenset[str]:
  """The characters that stand for bytes."""
  return frozenset(pre_tokenizers.ByteLevel.alphabet())
