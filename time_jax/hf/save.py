"""Our parameters -> the files that transformers loads."""

import importlib.metadata
import json
import pathlib
from collections.abc import Mapping

import flax
import numpy as np
import safetensors.numpy

from time_jax.models.bert import NAMES, BertConfig
from time_jax.models.family import KeyTable, Params


def save_bert(
  folder: pathlib.Path,
  config: BertConfig,
  params: Params,
  special_ids: Mapping[str, int],
) -> None:
  """Writes config.json and model.safetensors of a `BertModel`, in float32.

  Args:
    folder: exists.
    config: of the student.
    params: host or device arrays; float32.
    special_ids: pad_token_id, bos_token_id, eos_token_id.
  """
  hf_config = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": config.vocab_size,
    "hidden_size": config.hidden_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "intermediate_size": config.intermediate_size,
    "hidden_act": config.activation,
    "hidden_dropout_prob": config.dropout,
    "attention_probs_dropout_prob": config.attention_dropout,
    "max_position_embeddings": config.max_positions,
    "type_vocab_size": config.num_token_types,
    "initializer_range": config.initializer_range,
    "layer_norm_eps": config.layer_norm_eps,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": importlib.metadata.version("transformers"),
    **special_ids,
  }
  text = json.dumps(hf_config, indent=2, sort_keys=True) + "\n"
  (folder / "config.json").write_text(text, encoding="utf-8")
  safetensors.numpy.save_file(
    to_tensors(params, NAMES, config.num_layers),
    folder / "model.safetensors",
    metadata={"format": "pt"},
  )
  (folder / "model.safetensors").chmod(0o644)  # It is written as private.


def to_tensors(
  params: Params, table: KeyTable, num_layers: int
) -> dict[str, np.ndarray]:
  """Renames, unstacks and transposes parameters into a file's tensors."""
  tensors: dict[str, np.ndarray] = {}
  for path, leaf in flax.traverse_util.flatten_dict(params).items():
    array = np.asarray(leaf)
    parts = list(array) if path[0] == "layers" else [array]
    names = table.names(path, array.shape, num_layers)
    for name, part in zip(names, parts, strict=True):
      turned = part.T if path[-1] == "kernel" else part
      tensors[name] = np.ascontiguousarray(turned)
  return tensors
