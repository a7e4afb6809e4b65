"""What we write is read back, by us and by PyTorch."""

import dataclasses
import json
import stat

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from time_jax.core.arrays import make_batch
from time_jax.hf import load, save
from time_jax.models import bert
from time_jax.models.family import abstract_params

FLOAT32 = jnp.dtype("float32")
IDS = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}


def student(num_layers):
  """No two sizes are equal, and nothing has its usual value."""
  return bert.BertConfig(
    vocab_size=30,
    hidden_size=16,
    num_layers=num_layers,
    num_heads=2,
    intermediate_size=40,
    max_positions=20,
    num_token_types=3,
    layer_norm_eps=1e-3,
    activation="gelu_new",
    initializer_range=0.3,
    dropout=0.25,
    attention_dropout=0.125,
  )


@pytest.fixture(scope="module", params=[1, 3], ids="{}-layers".format)
def saved(request, tmp_path_factory):
  """(folder, encoder, parameters), no parameter a constant."""
  config = student(request.param)
  encoder = bert.Encoder(config, config.num_layers)

  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: random.normal(scale=0.3, size=x.shape).astype(np.float32),
    nn.meta.unbox(abstract_params(encoder)),
  )
  folder = tmp_path_factory.mktemp("saved")
  save.save_bert(folder, config, params, IDS)
  return folder, encoder, params


def test_we_read_the_same_bits(saved, mesh):
  folder, encoder, params = saved
  again, found = load.load_encoder(folder, dtype=FLOAT32, mesh=mesh)
  assert jax.tree.structure(found) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, found, params)
  for name in ("vocab_size", "num_layers", "layer_norm_eps", "activation"):
    assert getattr(again.config, name) == getattr(encoder.config, name)


def test_pytorch_reads_it_as_its_own(saved):
  folder, encoder, params = saved
  model, report = transformers.BertModel.from_pretrained(
    folder, output_loading_info=True, local_files_only=True
  )
  assert not any(report.values()), report
  random = np.random.default_rng(0)
  tokens = random.integers(30, size=(3, 20))
  mask = (np.arange(20) < np.array([[20], [9], [1]])).astype(np.int64)
  types = random.integers(3, size=(3, 20)).astype(np.int32)
  batch = dataclasses.replace(make_batch(tokens, mask), token_types=types)
  states = jax.jit(
    lambda params: encoder.apply(
      {"params": params}, batch, method="hidden_states"
    )
  )(params)
  with torch.no_grad():
    expected = model.eval()(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(mask),
      token_type_ids=torch.tensor(types),
      output_hidden_states=True,
    )
  assert len(expected.hidden_states) == len(states)
  for ours, theirs in zip(states, expected.hidden_states, strict=True):
    np.testing.assert_allclose(
      ours[mask > 0], theirs.numpy()[mask > 0], atol=1e-5, rtol=0
    )
  pooler = params["pooler"]
  pooled = np.tanh(states[-1][:, 0] @ pooler["kernel"] + pooler["bias"][None])
  np.testing.assert_allclose(pooled, expected.pooler_output, atol=1e-5, rtol=0)


def test_the_file_is_one_that_transformers_writes(saved):
  folder, encoder, params = saved
  file = folder / "model.safetensors"
  assert stat.S_IMODE(file.stat().st_mode) == 0o644
  last = encoder.config.num_layers - 1
  with safetensors.safe_open(file, framework="numpy") as opened:
    assert opened.metadata() == {"format": "pt"}
  tensors = safetensors.numpy.load_file(file)
  model = transformers.BertModel(
    transformers.BertConfig.from_pretrained(folder)
  )
  shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
  assert shapes == {n: t.shape for n, t in tensors.items()}
  for ours, theirs, shape in (
    ("ffn_in", "intermediate.dense", (40, 16)),
    ("ffn_out", "output.dense", (16, 40)),
  ):
    tensor = tensors[f"encoder.layer.{last}.{theirs}.weight"]
    assert tensor.dtype == np.float32 and tensor.shape == shape
    kernel = params["last"][ours]["kernel"]
    np.testing.assert_array_equal(tensor, kernel.T)


def test_the_config_says_it_all(saved):
  folder, encoder, _ = saved
  text = (folder / "config.json").read_text()
  found = transformers.BertConfig.from_pretrained(folder).to_dict()
  c = encoder.config
  assert text.endswith("}\n")
  assert list(json.loads(text)) == sorted(json.loads(text))
  assert IDS.items() <= found.items()
  assert found["architectures"] == ["BertModel"]
  for name, value in {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": c.num_layers,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.25,
    "attention_probs_dropout_prob": 0.125,
    "max_position_embeddings": 20,
    "type_vocab_size": 3,
    "initializer_range": 0.3,
    "layer_norm_eps": 1e-3,
  }.items():
    assert found[name] == value, name


def test_tensors_do_not_share_memory_with_parameters():
  """Stacked and turned parameters make contiguous tensors of their own."""
  params = {
    "layers": {"ffn_in": {"kernel": np.arange(12.0).reshape(2, 2, 3)}},
    "last": {"ffn_in": {"kernel": np.arange(6.0).reshape(2, 3)}},
  }
  tensors = save.to_tensors(params, bert.NAMES, 3)
  name = "encoder.layer.{}.intermediate.dense.weight"
  assert sorted(tensors) == [name.format(i) for i in range(3)]
  for i, block in enumerate([*params["layers"]["ffn_in"]["kernel"], None]):
    tensor = tensors[name.format(i)]
    kernel = params["last"]["ffn_in"]["kernel"] if block is None else block
    np.testing.assert_array_equal(tensor, kernel.T)
    assert tensor.flags.c_contiguous
