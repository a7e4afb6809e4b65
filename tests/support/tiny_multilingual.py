"""Tiny teachers with tokens of twenty languages, as their families come.

With more tokens, and on more text, for the table in benchmarks.md:

  python tests/support/tiny_multilingual.py teachers 40000 texts/*.jsonl.gz
"""

import io
import json
import pathlib
import sys

import flax
import jax
import numpy as np
import safetensors.numpy
import sentencepiece
import tiny_tokenizers
import tokenizers

from time_jax.hf import save
from time_jax.models.family import abstract_params
from time_jax.models.registry import find_family

SIZE = 4000
POSITIONS = 64


def texts():
  return [
    text
    for language in tiny_tokenizers.LANGUAGES
    for text in tiny_tokenizers.documents(language)
  ]


def train_sentencepiece(texts, size, **settings):
  """A Unigram model as XLM-R's: unknown, <s> and </s> are its first pieces."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    vocab_size=size,
    character_coverage=1.0,
    max_sentence_length=100_000,
    minloglevel=2,
    num_threads=1,
    # What the training begins with; the default takes ten times as long.
    seed_sentencepiece_size=10 * size,
    **settings,
  )
  return model.getvalue()


def xlm_roberta(folder, texts, size):
  """SentencePiece alone, beside weights with the head of a language model."""
  model = train_sentencepiece(texts, size)
  (folder / "sentencepiece.bpe.model").write_bytes(model)
  rows = size + 2  # <pad>, and <mask> behind all pieces
  write_config(folder, tokenizer_class="XLMRobertaTokenizer")
  content = bert_config(
    model_type="xlm-roberta",
    vocab_size=rows,
    max_position_embeddings=POSITIONS + 2,
    type_vocab_size=1,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
  )
  tensors = {
    f"roberta.{name}": array for name, array in random_tensors(content).items()
  }
  tensors["lm_head.bias"] = np.random.default_rng(1).normal(size=rows)
  tensors["lm_head.dense.weight"] = np.eye(32, dtype=np.float32)
  tensors["roberta.embeddings.position_ids"] = np.arange(66)[None]
  write_weights(folder, content, tensors)


def mbert(folder, texts, size):
  """WordPiece, in both forms."""
  backend = tiny_tokenizers.wordpiece(texts, size)
  tiny_tokenizers.save(backend, folder)
  write_config(folder, tokenizer_class="BertTokenizer", do_lower_case=False)
  vocabulary = backend.get_vocab()
  lines = sorted(vocabulary, key=vocabulary.__getitem__)
  (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  # No token has the last rows.
  content = bert_config(model_type="bert", vocab_size=size + 5)
  write_weights(folder, content, random_tensors(content))


def roberta(folder, texts, size):
  """Byte-level BPE, in both forms."""
  backend = tokenizers.ByteLevelBPETokenizer()
  special = ["<s>", "<pad>", "</s>", "<unk>"]
  backend.train_from_iterator(
    texts, size - 1, special_tokens=special, show_progress=False
  )
  backend.add_special_tokens(["<mask>"])
  backend.save_model(str(folder))
  backend.post_processor = tokenizers.processors.RobertaProcessing(
    ("</s>", 2), ("<s>", 0)
  )
  backend.save(str(folder / "tokenizer.json"))
  write_config(
    folder,
    tokenizer_class="RobertaTokenizer",
    added_tokens_decoder={str(size - 1): {"content": "<mask>", "lstrip": True}},
  )
  content = bert_config(
    model_type="roberta",
    vocab_size=size,
    max_position_embeddings=POSITIONS + 2,
    type_vocab_size=1,
    pad_token_id=1,
  )
  write_weights(folder, content, random_tensors(content))


def mdeberta(folder, texts, size):
  """SentencePiece whose ids are the model's, <mask> behind them."""
  names = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
  ids = {f"{name}_id": i for i, name in enumerate(names)}
  pieces = {f"{name}_piece": piece for name, piece in names.items()}
  model = train_sentencepiece(texts, size, **ids, **pieces)
  (folder / "spm.model").write_bytes(model)
  write_config(folder, tokenizer_class="DebertaV2Tokenizer")
  content = bert_config(
    model_type="deberta-v2",
    vocab_size=size + 3,
    relative_attention=True,
    position_buckets=8,
    max_relative_positions=-1,
    norm_rel_ebd="layer_norm",
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
    share_att_key=True,
    type_vocab_size=0,
  )
  write_weights(folder, content, random_tensors(content))


def mt5(folder, texts, size):
  """SentencePiece with bytes for what has no piece."""
  ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
  model = train_sentencepiece(texts, size, byte_fallback=True, **ids)
  (folder / "spiece.model").write_bytes(model)
  write_config(folder, tokenizer_class="T5Tokenizer", extra_ids=0)
  content = {
    "model_type": "mt5",
    "vocab_size": size,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 3,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }
  write_weights(folder, content, random_tensors(content))


KINDS = {
  "xlm_roberta": xlm_roberta,
  "mbert": mbert,
  "roberta": roberta,
  "mdeberta": mdeberta,
  "mt5": mt5,
}


def write_config(folder: pathlib.Path, **content):
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps({"model_max_length": POSITIONS, **content}))


def bert_config(**content):
  return {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "hidden_act": "gelu",
    "pad_token_id": 0,
    **content,
  }


def random_tensors(content):
  """Of a model with this config.json."""
  family = find_family(content)
  config = family.parse_config(content)
  random = np.random.default_rng(1)

  def fill(path, leaf):
    mean = float(path[-1].key == "scale")
    return random.normal(mean, 0.3, leaf.shape).astype(np.float32)

  encoder = family.encoder(config, config.num_layers)
  shapes = flax.linen.meta.unbox(abstract_params(encoder))
  params = jax.tree_util.tree_map_with_path(fill, shapes)
  return save.to_tensors(params, family.names, config.num_layers)


def write_weights(folder, content, tensors):
  (folder / "config.json").write_text(json.dumps(content))
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(array) for name, array in tensors.items()},
    folder / "model.safetensors",
  )


def main(out, size, *paths):
  """Teachers with `size` tokens, of the first 1000 documents of each file."""
  texts = [text for path in paths for text in tiny_tokenizers.read(path, 1000)]
  for kind, make in KINDS.items():
    folder = pathlib.Path(out, kind)
    folder.mkdir(parents=True)
    make(folder, texts, int(size))


if __name__ == "__main__":
  main(*sys.argv[1:])
