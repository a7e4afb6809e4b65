"""Which of transformers' own tokenizer classes reads a tokenizer.json right.

Other programs look at the class that tokenizer_config.json names, and some take
a few known ones only. transformers 4.x reads tokenizer.json whatever the class
is, and changes it by the settings of the class; 5.x takes words and merges from
it and builds the rest anew. So a class is named where the file says, part for
part, what that class builds: then both give the ids of the file.
"""

import dataclasses
import json
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, pre_tokenizers

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.hf import files, tokenizer

_LINES = 10_000
_SEPARATORS = (" ", "", "  ", "\t", "\u00a0", ", ", "\n", "-", " \u0301", ".")
_BERT = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ALL = ("bos_token", "eos_token", *_BERT)
# These parts of a BPE model change nothing.
_PLAIN_BPE = {
  "dropout": (None,),
  "continuing_subword_prefix": (None, ""),
  "end_of_word_suffix": (None, ""),
  "fuse_unk": (False,),
  "byte_fallback": (False,),
  "ignore_merges": (False, None),
}


@dataclasses.dataclass(frozen=True)
class _File:
  """A tokenizer.json, and the special tokens that its configs name."""

  content: Mapping[str, Any]
  tokens: Mapping[str, str]
  backend: tokenizers.Tokenizer

  def names_all(self, kinds: Sequence[str], mask_takes_space: bool) -> bool:
    """Whether it adds the tokens of these kinds and no others, as usual."""
    if not set(kinds) <= set(self.tokens):
      return False
    named = {self.tokens[kind] for kind in kinds}
    added = {token["content"]: token for token in self.content["added_tokens"]}
    mask = self.tokens["mask_token"]
    return added.keys() == named == set(self.tokens.values()) and all(
      token["special"]
      and not token["single_word"]
      and not token["rstrip"]
      and not token["normalized"]
      and token["lstrip"] == (mask_takes_space and name == mask)
      for name, token in added.items()
    )

  def surrounds(self, alone: Sequence[str], pair: Sequence[str]) -> bool:
    """Whether these kinds of tokens stand around a text, and two texts."""

    def ids(kinds: Sequence[str]) -> list[str]:
      return [self.tokens[kind] for kind in kinds]

    found = self.backend.encode("").tokens, self.backend.encode("", "").tokens
    return found == (ids(alone), ids(pair))


def find(
  backend: tokenizers.Tokenizer, tokens: Mapping[str, str]
) -> dict[str, Any]:
  """What tokenizer_config.json says of the class, and of its settings.

  Args:
    backend: without padding and truncation.
    tokens: kind, such as "pad_token" -> token.

  Returns:
    Nothing where no known class reads the file as it is.
  """
  file = _File(json.loads(backend.to_str()), tokens, backend)
  of_kind = _CLASSES.get(file.content["model"]["type"])
  return of_kind(file) if of_kind else {}


def _bert(file: _File) -> dict[str, Any]:
  normal, model = file.content["normalizer"] or {}, file.content["model"]
  splitting = pre_tokenizers.BertPreTokenizer()
  fits = (
    model["continuing_subword_prefix"] == "##"
    and model["max_input_chars_per_word"] == 100
    and normal.get("type") == "BertNormalizer"
    and normal["clean_text"]
    and file.content["pre_tokenizer"] == _said(splitting)
    and file.content["decoder"] == _said(decoders.WordPiece())
    and file.names_all(_BERT, mask_takes_space=False)
    and model["unk_token"] == file.tokens["unk_token"]
    and file.surrounds(
      ("cls_token", "sep_token"), ("cls_token", "sep_token", "sep_token")
    )
  )
  if not fits:
    return {}
  return {
    "tokenizer_class": "BertTokenizerFast",
    "do_lower_case": normal["lowercase"],
    "strip_accents": normal["strip_accents"],
    "tokenize_chinese_chars": normal["handle_chinese_chars"],
  }


def _roberta(file: _File) -> dict[str, Any]:
  model, after = file.content["model"], file.content["post_processor"] or {}
  before = file.content["pre_tokenizer"] or {}
  fits = (
    all(model.get(k) in known for k, known in _PLAIN_BPE.items())
    and not file.content["normalizer"]
    and before.get("type") == "ByteLevel"
    and before.get("use_regex", True)
    and set(pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()
    and (file.content["decoder"] or {}).get("type") == "ByteLevel"
    and file.names_all(_ALL, mask_takes_space=True)
    and after.get("type") == "RobertaProcessing"
    and after["add_prefix_space"] == before["add_prefix_space"]
    and _pairs_of_roberta(file)
  )
  if not fits:
    return {}
  return {
    "tokenizer_class": "RobertaTokenizerFast",
    "add_prefix_space": before["add_prefix_space"],
    "trim_offsets": after["trim_offsets"],
  }


def _xlm_roberta(file: _File) -> dict[str, Any]:
  model, normal = file.content["model"], file.content["normalizer"] or {}
  words = [word for word, _ in model["vocab"][:4]]
  first = [file.tokens.get(f"{k}_token") for k in ("bos", "pad", "eos", "unk")]
  splitting = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
  )
  fits = (
    model["unk_id"] == 3
    and words == first
    and not model.get("byte_fallback")
    and normal.get("type") == "Precompiled"
    and file.content["pre_tokenizer"] == _said(splitting)
    and file.content["decoder"] == _said(decoders.Metaspace())
    and file.names_all(_ALL, mask_takes_space=True)
    and file.tokens["cls_token"] == file.tokens["bos_token"]
    and file.tokens["sep_token"] == file.tokens["eos_token"]
    and _pairs_of_roberta(file)
  )
  if not fits:
    return {}
  return {"tokenizer_class": "XLMRobertaTokenizerFast"}


def _pairs_of_roberta(file: _File) -> bool:
  alone = ("cls_token", "sep_token")
  return file.surrounds(alone, (*alone, "sep_token", "sep_token"))


_CLASSES: dict[str, Callable[[_File], dict[str, Any]]] = {
  "WordPiece": _bert,
  "BPE": _roberta,
  "Unigram": _xlm_roberta,
}


def _said(part: Any) -> Any:
  """What a tokenizer.json says of a part."""
  return json.loads(part.__getstate__())


def lines(backend: tokenizers.Tokenizer) -> list[str]:
  """10,000 lines out of a tokenizer's own words, of every script it knows.

  They follow each other as in no text: with and without spaces, other white
  space, accents and signs between them, special tokens spelled out among them.
  """
  words = [
    backend.decoder.decode([word]) if backend.decoder else word
    for word in sorted(backend.get_vocab())
  ]
  chance = random.Random(0)
  return [
    "".join(
      part
      for _ in range(chance.randint(1, 6))
      for part in (chance.choice(words), chance.choice(_SEPARATORS))
    )
    for _ in range(_LINES)
  ]


def name_class(folder: pathlib.Path, texts: Sequence[str]) -> str:
  """Names the class in a folder's tokenizer_config.json, where one is right.

  What the class gives in the transformers that is installed is compared with
  what the folder gave before, and is taken back if that is not the same. For
  other versions the parts of the file stand, which the tests compare in both.

  Args:
    folder: of a tokenizer, as `save_tokenizer` writes it.
    texts: to compare on, besides `lines`.

  Returns:
    The class that is named now.
  """
  path = folder / "tokenizer_config.json"
  content = files.read_json(path)
  backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokens = {kind: content[kind] for kind in _ALL if content.get(kind)}
  if found := find(backend, tokens):
    texts = [*texts, *lines(backend)]
    before = _readings(folder, texts)
    _write(path, content | found)
    try:
      same = _readings(folder, texts) == before
    except UserError:
      same = False
    if not same:
      _write(path, content)
  return files.read_json(path)["tokenizer_class"]


def _readings(folder: pathlib.Path, texts: Sequence[str]) -> list[Any]:
  """What transformers makes of texts with the tokenizer of a folder."""
  opened = tokenizer.open_tokenizer(folder)
  ids = opened(list(texts))["input_ids"]
  named = opened.special_tokens_map
  return [
    ids,
    opened(list(texts[:500]), list(texts[-500:]))["input_ids"],
    opened.batch_decode(ids[:1000]),
    {kind: opened.convert_tokens_to_ids(named[kind]) for kind in sorted(named)},
    sorted(opened("a")),
    (len(opened), opened.model_max_length),
  ]


def _write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  atomic_file.write_json(path, content, ensure_ascii=False)
