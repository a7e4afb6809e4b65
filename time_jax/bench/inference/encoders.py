"""Encoders to measure, as files that every engine can read."""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from time_jax.bench.common.flags import RANDOM
from time_jax.bench.common.random_shapes import shape
from time_jax.checkpoint import layout
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import files, load, model_identity, onnx_encoder, save
from time_jax.hf.model_identity import Identity
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import init_params
from time_jax.parallel import sharding
from time_jax.run import saved_student


@dataclasses.dataclass(frozen=True)
class EncoderFiles:
  """One encoder.

  Attributes:
    name: its name in tables.
    folder: folder with config.json and safetensors, for JAX and PyTorch.
    onnx: file with the same weights as a graph; None: only BERT and its kin
      have one.
    parameters: number of parameters, without those of embeddings.
    identity: fingerprint that tells which model it is.
  """

  name: str
  folder: pathlib.Path
  onnx: pathlib.Path | None
  parameters: int
  identity: Identity


def write_encoder(
  name: str, spec: str, tokenizer: TokenizerSpec, scratch: pathlib.Path
) -> EncoderFiles:
  """Writes the files of an encoder that do not exist yet.

  Args:
    name: name of the encoder.
    spec: random:SHAPE, for fresh weights with the vocabulary of the tokenizer;
      a workdir; or what `files.resolve` takes.
    tokenizer: tokenizer of all encoders.
    scratch: folder for files.

  Raises:
    UserError: there is no such shape or model, or its token table has fewer
      rows than the tokenizer has ids.
  """
  folder = scratch / name
  folder.mkdir()
  identity = None
  ids = {"pad_token_id": tokenizer.pad_id}
  if spec.startswith(RANDOM):
    config = shape(spec, tokenizer.vocab_size)
    encoder = Encoder(config, config.num_layers)
    params = nn.meta.unbox(init_params(encoder, jax.random.key(0)))
    save.save_bert(folder, config, params, ids)
  elif layout.is_workdir(local_path(spec)):
    student = saved_student.read_student(local_path(spec))
    identity = student.identity
    save.save_bert(folder, student.config, student.params, ids)
  else:
    folder = files.resolve(spec)
  encoder, params = load.load_encoder(
    folder, dtype=np.float32, mesh=sharding.make_mesh()
  )
  config: Any = encoder.config
  if tokenizer.vocab_size > config.vocab_size:
    raise UserError(
      f"{spec} has {config.vocab_size} words, the tokenizer "
      f"{tokenizer.vocab_size}; expected the tokenizer of the models."
    )
  onnx = None
  if isinstance(config, BertConfig) and config.activation == "gelu":
    onnx = scratch / f"{name}.onnx"
    onnx_encoder.save_onnx(onnx, config, params)
  blocks = {k: v for k, v in params.items() if k in ("first", "layers", "last")}
  parameters = sum(leaf.size for leaf in jax.tree.leaves(blocks))
  identity = identity or model_identity.of_folder(folder, config, params)
  return EncoderFiles(name, folder, onnx, parameters, identity)
