"""What the tests of `prepare` share: a tokenizer, corpora and a look at files.

A corpus is random words, so that the shards do not compress to nothing.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from time_jax.data import prepare
from time_jax.data.manifest import Manifest
from time_jax.data.shards import RowFormat
from time_jax.data.tokenizing import TokenizerSpec

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["og", "det", "ikke", "på", "языка", "語", "שלום", "w", "x", "yz"]


def tiny_tokenizer(vocab_size: int = 14) -> TokenizerSpec:
  vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
  tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  return TokenizerSpec(tokenizer.to_str(), 0, vocab_size, "tiny")


def make_documents(count: int, seed: int = 0, words: int = 40) -> list[str]:
  random = np.random.default_rng(seed)
  return [
    " ".join(random.choice(WORDS, size=size))
    for size in random.integers(1, words, size=count)
  ]


def write_corpus(path: pathlib.Path, documents: list[str]) -> str:
  lines = [json.dumps({"text": text}, ensure_ascii=False) for text in documents]
  path.write_text("\n".join(lines))
  return str(path)


def run(folder: pathlib.Path, *train: str, **changes: Any) -> Manifest:
  """Prepares with small defaults; changes are of any field or argument."""

  def taken(kind: type) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: changes.pop(name) for name in names if name in changes}

  small = {"tokenizer": tiny_tokenizer(), "seq_len": 16}
  row_format = RowFormat(**(small | taken(RowFormat)))
  limits = prepare.Limits(**taken(prepare.Limits))
  splits = changes.pop("splits", {"train": train})
  options = {"shard_text_mb": 0.003, "num_workers": 1} | changes
  return prepare.prepare(folder, splits, row_format, limits=limits, **options)


def read(folder: pathlib.Path, split: str = "train") -> list[dict[str, Any]]:
  rows = tfds.data_source("time_rows", data_dir=folder, split=split)
  return rows.__getitems__(list(range(len(rows))))


def segments(rows: list[dict[str, Any]]) -> list[list[int]]:
  return [
    row["tokens"][row["segment_ids"] == segment].tolist()
    for row in rows
    for segment in range(1, row["segment_ids"].max() + 1)
  ]


def contents(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }
