"""Which of transformers' own tokenizer classes reads a tokenizer.json right.

Other programs look at the class that tokenizer_config.json names, and some take
a few known ones only. transformers 4.x reads tokenizer.json whatever the class
is, and changes it by the settings of the class; 5.x takes vocabulary and merges
from it and builds the rest anew. So a class is named where the file has, part
for part, what that class builds: then both give the ids of the file.
"""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, pre_tokenizers

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import tokenizer

_NUM_LINES = 10_000
_SEPARATORS = (" ", "", "  ", "\t", "\u00a0", ", ", "\n", "-", " \u0301", ".")
_BERT = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ALL = ("bos_token", "eos_token", *_BERT)
# Settings of a BPE model that change nothing.
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

  def part(self, name: str) -> Mapping[str, Any]:
    """Returns a part of the file, such as its normalizer."""
    return self.content[name] or {}

  def names_all(self, kinds: Sequence[str], mask_takes_space: bool) -> bool:
    """Returns whether it adds the tokens of these kinds only, as usual."""
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

  def surrounds(self, text: str, pair: str) -> bool:
    """Returns whether these tokens surround a text, and a pair of texts.

    Args:
      text: kinds of tokens by their short names, such as "cls sep".
      pair: likewise.
    """
    tokens = self.backend.encode("").tokens, self.backend.encode("", "").tokens
    return tokens == tuple(
      [self.tokens[f"{kind}_token"] for kind in kinds.split()]
      for kinds in (text, pair)
    )


def find(
  backend: tokenizers.Tokenizer, tokens: Mapping[str, str]
) -> dict[str, Any]:
  """Returns what tokenizer_config.json says of the class and its settings.

  Args:
    backend: a tokenizer without padding and truncation.
    tokens: kind, such as "pad_token" -> token.

  Returns:
    An empty dict where no known class reads the file as it is.
  """
  file = _File(json.loads(backend.to_str()), tokens, backend)
  kinds = {"WordPiece": _bert, "BPE": _roberta, "Unigram": _xlm_roberta}
  of_kind = kinds.get(file.content["model"]["type"])
  return of_kind(file) if of_kind else {}


def _bert(file: _File) -> dict[str, Any]:
  model, normalizer = file.content["model"], file.part("normalizer")
  if not (
    model["continuing_subword_prefix"] == "##"
    and model["max_input_chars_per_word"] == 100
    and normalizer.get("type") == "BertNormalizer"
    and normalizer["clean_text"]
    and _is(file.part("pre_tokenizer"), pre_tokenizers.BertPreTokenizer())
    and _is(file.part("decoder"), decoders.WordPiece())
    and file.names_all(_BERT, mask_takes_space=False)
    and model["unk_token"] == file.tokens["unk_token"]
    and file.surrounds("cls sep", "cls sep sep")
  ):
    return {}
  return {
    "tokenizer_class": "BertTokenizerFast",
    "do_lower_case": normalizer["lowercase"],
    "strip_accents": normalizer["strip_accents"],
    "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
  }


def _roberta(file: _File) -> dict[str, Any]:
  model, after = file.content["model"], file.part("post_processor")
  before = file.part("pre_tokenizer")
  if not (
    all(model.get(k) in known for k, known in _PLAIN_BPE.items())
    and not file.part("normalizer")
    and before.get("type") == "ByteLevel"
    and before.get("use_regex", True)
    and set(pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()
    and file.part("decoder").get("type") == "ByteLevel"
    and file.names_all(_ALL, mask_takes_space=True)
    and after.get("type") == "RobertaProcessing"
    and after["add_prefix_space"] == before["add_prefix_space"]
    and file.surrounds("cls sep", "cls sep sep sep")
  ):
    return {}
  return {
    "tokenizer_class": "RobertaTokenizerFast",
    "add_prefix_space": before["add_prefix_space"],
    "trim_offsets": after["trim_offsets"],
  }


def _xlm_roberta(file: _File) -> dict[str, Any]:
  model = file.content["model"]
  splitting = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
  )
  fits = (
    model["unk_id"] == 3
    and [token for token, _ in model["vocab"][:4]]
    == [file.tokens.get(f"{k}_token") for k in ("bos", "pad", "eos", "unk")]
    and not model.get("byte_fallback")
    and file.part("normalizer").get("type") == "Precompiled"
    and _is(file.part("pre_tokenizer"), splitting)
    and _is(file.part("decoder"), decoders.Metaspace())
    and file.names_all(_ALL, mask_takes_space=True)
    and file.tokens["cls_token"] == file.tokens["bos_token"]
    and file.tokens["sep_token"] == file.tokens["eos_token"]
    and file.surrounds("cls sep", "cls sep sep sep")
  )
  return {"tokenizer_class": "XLMRobertaTokenizerFast"} if fits else {}


def _is(part: Mapping[str, Any], expected: Any) -> bool:
  """Returns whether a part of a tokenizer.json is what the library builds."""
  return part == json.loads(expected.__getstate__())


def sample_lines(backend: tokenizers.Tokenizer) -> list[str]:
  """Returns 10,000 lines made of a tokenizer's own tokens, of all its scripts.

  They follow each other as in no text: with and without spaces, other white
  space, accents and signs between them, special tokens spelled out among them.
  """
  tokens = [
    backend.decoder.decode([token]) if backend.decoder else token
    for token in sorted(backend.get_vocab())
  ]
  chance = random.Random(0)
  return [
    "".join(
      part
      for _ in range(chance.randint(1, 6))
      for part in (chance.choice(tokens), chance.choice(_SEPARATORS))
    )
    for _ in range(_NUM_LINES)
  ]


def name_class(folder: Path, texts: Sequence[str]) -> str:
  """Names the class in a folder's tokenizer_config.json, where one is right.

  What the class gives in the installed transformers is compared with what the
  folder gave before, and the class is taken back if that is not the same. For
  other versions the parts of the file stand, which the tests compare in both.

  Args:
    folder: a tokenizer's folder, as `save_tokenizer` writes it.
    texts: texts to compare on, besides `sample_lines`.

  Returns:
    The class that is named now.
  """
  path = folder / "tokenizer_config.json"
  content = json_file.read_json(path)
  backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokens = {kind: content[kind] for kind in _ALL if content.get(kind)}
  if of_class := find(backend, tokens):
    texts = [*texts, *sample_lines(backend)]
    before = _readings(folder, texts)
    named = content | of_class
    atomic_file.write_json(path, named, ensure_ascii=False)
    try:
      same = _readings(folder, texts) == before
    except UserError:
      same = False
    if same:
      return named["tokenizer_class"]
    atomic_file.write_json(path, content, ensure_ascii=False)
  return content["tokenizer_class"]


def _readings(folder: Path, texts: Sequence[str]) -> list[Any]:
  """Returns what transformers makes of texts with a folder's tokenizer."""
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
