"""Tiny teachers with tokens of twenty languages, as their families come."""

import io
import json
import pathlib

import flax
import jax
import numpy as np
import safetensors.numpy
import sentencepiece
import tiny_tokenizers
import tokenizers

from time_jax.hf import save
from time_jax.models import bert
from time_jax.models.family import abstract_params

SIZE = 4000
POSITIONS = 64


def texts():
  return [
    text
    for language in tiny_tokenizers.LANGUAGES
    for text in tiny_tokenizers.documents(language)
  ]


def train_sentencepiece(size=SIZE, **settings):
  """A Unigram model as XLM-R's: unknown, <s> and </s> are its first pieces."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts()),
    model_writer=model,
    vocab_size=size,
    character_coverage=1.0,
    max_sentence_length=100_000,
    minloglevel=2,
    num_threads=1,
    **settings,
  )
  return model.getvalue()


def xlm_roberta(folder):
  """SentencePiece alone, beside weights with the head of a language model."""
  (folder / "sentencepiece.bpe.model").write_bytes(train_sentencepiece())
  rows = SIZE + 2  # <pad>, and <mask> behind all pieces
  write_config(folder, tokenizer_class="XLMRobertaTokenizer")
  tensors = encoder_tensors(rows, offset=2, prefix="roberta.")
  tensors["lm_head.bias"] = np.random.default_rng(1).normal(size=rows)
  tensors["lm_head.dense.weight"] = np.eye(32, dtype=np.float32)
  tensors["roberta.embeddings.position_ids"] = np.arange(66)[None]
  write_weights(
    folder,
    tensors,
    model_type="xlm-roberta",
    vocab_size=rows,
    max_position_embeddings=POSITIONS + 2,
    type_vocab_size=1,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
  )


def mbert(folder):
  """WordPiece, in both forms."""
  backend = tiny_tokenizers.wordpiece(texts(), SIZE)
  tiny_tokenizers.save(backend, folder)
  write_config(folder, tokenizer_class="BertTokenizer", do_lower_case=False)
  vocabulary = backend.get_vocab()
  lines = sorted(vocabulary, key=vocabulary.__getitem__)
  (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  rows = SIZE + 5  # No token has the last ones.
  write_weights(
    folder, encoder_tensors(rows), model_type="bert", vocab_size=rows
  )


def roberta(folder):
  """Byte-level BPE, in both forms."""
  backend = tokenizers.ByteLevelBPETokenizer()
  special = ["<s>", "<pad>", "</s>", "<unk>"]
  backend.train_from_iterator(
    texts(), SIZE - 1, special_tokens=special, show_progress=False
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
    added_tokens_decoder={str(SIZE - 1): {"content": "<mask>", "lstrip": True}},
  )
  write_weights(
    folder,
    encoder_tensors(SIZE, offset=2),
    model_type="roberta",
    vocab_size=SIZE,
    max_position_embeddings=POSITIONS + 2,
    type_vocab_size=1,
    pad_token_id=1,
  )


KINDS = {"xlm_roberta": xlm_roberta, "mbert": mbert, "roberta": roberta}


def write_config(folder: pathlib.Path, **content):
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps({"model_max_length": POSITIONS, **content}))


def encoder_tensors(rows, offset=0, prefix=""):
  config = bert.BertConfig(
    vocab_size=rows,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    intermediate_size=64,
    max_positions=POSITIONS,
    position_offset=offset,
    num_token_types=1 if offset else 2,
  )
  random = np.random.default_rng(1)

  def fill(path, leaf):
    mean = float(path[-1].key == "scale")
    return random.normal(mean, 0.3, leaf.shape).astype(np.float32)

  shapes = flax.linen.meta.unbox(abstract_params(bert.Encoder(config, 3)))
  params = jax.tree_util.tree_map_with_path(fill, shapes)
  tensors = save.to_tensors(params, bert.NAMES, 3)
  return {prefix + name: array for name, array in tensors.items()}


def write_weights(folder, tensors, **changes):
  content = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "hidden_act": "gelu",
    "pad_token_id": 0,
    **changes,
  }
  (folder / "config.json").write_text(json.dumps(content))
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(array) for name, array in tensors.items()},
    folder / "model.safetensors",
  )
