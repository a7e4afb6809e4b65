"""Writes our parameters as the files that transformers loads."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path
from time_jax.models.bert import NAMES, BertConfig
from time_jax.models.family import KeyTable, Params

# Classes that are this network, and the model_type of each.
CLASSES = {"BertModel": "bert", "XLMRobertaModel": "xlm-roberta"}
DTYPES = ("float32", "bfloat16")
WEIGHTS = "model.safetensors"
_POSITIONS = NAMES.tensors["embeddings/position/embedding"]


def save_bert(
  folder: Path,
  config: BertConfig,
  params: Params,
  special_ids: Mapping[str, int],
  model_class: str = "BertModel",
  dtype: str = "float32",
) -> None:
  """Writes config.json and model.safetensors.

  Args:
    folder: an existing folder.
    config: the student's config.
    params: host or device arrays; float32.
    special_ids: pad_token_id, bos_token_id, eos_token_id.
    model_class: a key of `CLASSES`.
    dtype: one of `DTYPES`, of the weights in the file.

  Raises:
    UserError: XLMRobertaModel without a padding token, by which it counts.
  """
  content = hf_config(config, special_ids, model_class, dtype)
  atomic_file.write_json(folder / "config.json", content, sort_keys=True)
  offset = position_offset(model_class, special_ids)
  write_safetensors(
    folder / WEIGHTS, bert_tensors(config, params, offset, dtype)
  )


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes tensors as transformers does.

  Args:
    path: the file.
    tensors: the tensors by name.
  """
  safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt"})
  path.chmod(0o644)  # The library lets the owner alone read it.


def hf_config(
  config: BertConfig,
  special_ids: Mapping[str, int],
  model_class: str = "BertModel",
  dtype: str = "float32",
) -> dict[str, Any]:
  """Returns a student's config.json; arguments as for `save_bert`."""
  offset = position_offset(model_class, special_ids)
  return {
    "architectures": [model_class],
    "model_type": CLASSES[model_class],
    "vocab_size": config.vocab_size,
    "hidden_size": config.hidden_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "intermediate_size": config.intermediate_size,
    "hidden_act": config.activation,
    "hidden_dropout_prob": config.dropout,
    "attention_probs_dropout_prob": config.attention_dropout,
    "max_position_embeddings": config.max_positions + offset,
    "type_vocab_size": config.num_token_types,
    "initializer_range": config.initializer_range,
    "layer_norm_eps": config.layer_norm_eps,
    "position_embedding_type": "absolute",
    "dtype": dtype,
    "torch_dtype": dtype,  # As transformers before 4.56 calls it.
    "transformers_version": importlib.metadata.version("transformers"),
    **special_ids,
  }


def position_offset(model_class: str, special_ids: Mapping[str, int]) -> int:
  """Returns the first row of the position table that a class uses.

  Args:
    model_class: a key of `CLASSES`.
    special_ids: ids by name, "pad_token_id" among them if it has one.

  Raises:
    UserError: the class counts from the padding token's id, and there is none.
  """
  if model_class not in CLASSES:
    raise UserError(
      f"unknown class {model_class!r}; expected one of {', '.join(CLASSES)}."
    )
  if CLASSES[model_class] == "bert":
    return 0
  if "pad_token_id" not in special_ids:
    raise UserError(
      f"{model_class} counts positions from the id of the padding token, and "
      "this student has no tokenizer; export it as BertModel."
    )
  return special_ids["pad_token_id"] + 1


def bert_tensors(
  config: BertConfig, params: Params, offset: int, dtype: str
) -> dict[str, np.ndarray]:
  """Returns the tensors of a student's file, by name.

  The pooler is among them though distillation never trains it: transformers
  makes a random one of its own, with a warning, where a file lacks it.

  Args:
    config: the student's config.
    params: float32.
    offset: first row of the file's position table that is used; the rows
      before it are zero, unless the student's own table starts there too.
    dtype: the tensors' dtype.
  """
  tensors = to_tensors(params, NAMES, config.num_layers)
  if offset != config.position_offset:
    used = tensors[_POSITIONS][config.position_offset :]
    tensors[_POSITIONS] = np.pad(used, ((offset, 0), (0, 0)))
  return {name: x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}


def to_tensors(
  params: Params, table: KeyTable, num_layers: int
) -> dict[str, np.ndarray]:
  """Returns parameters as a file holds them: renamed, unstacked, transposed.

  Args:
    params: parameters of an encoder, or some of them.
    table: key table of its family.
    num_layers: blocks of the encoder.
  """
  tensors: dict[str, np.ndarray] = {}
  for path, leaf in flax.traverse_util.flatten_dict(params).items():
    array = np.asarray(leaf)
    parts = list(array) if path[0] == "layers" else [array]
    names = table.names(path, array.shape, num_layers)
    for name, part in zip(names, parts, strict=True):
      turned = part.T if path[-1] == "kernel" else part
      tensors[name] = np.ascontiguousarray(turned)
  return tensors
