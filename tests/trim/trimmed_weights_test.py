"""Weights with fewer rows, whatever files they come in."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from time_jax.core.errors import UserError
from time_jax.hf.weights import Weights
from time_jax.models import bert, t5
from time_jax.trim import trimmed_weights

OLD_IDS = [0, 3, 4, 9]


@pytest.fixture
def tensors():
  random = np.random.default_rng(0)
  named = {
    "embeddings.word_embeddings.weight": (10, 4),
    "embeddings.position_embeddings.weight": (10, 4),  # as many, by chance
    "encoder.layer.0.intermediate.dense.weight": (10, 4),
    "pooler.dense.bias": (4,),
    "cls.predictions.decoder.weight": (10, 4),
    "cls.predictions.bias": (10,),
  }
  found = {name: random.normal(size=shape) for name, shape in named.items()}
  found = {n: a.astype(jnp.dtype("bfloat16")) for n, a in found.items()}
  found["cls.predictions.bias"] = random.normal(size=10).astype(np.float32)
  found["embeddings.position_ids"] = np.arange(10)[None]
  return found


TABLES = {
  "embeddings.word_embeddings.weight",
  "cls.predictions.decoder.weight",
  "cls.predictions.bias",
}


def check(out, tensors):
  with Weights(out) as found:
    assert set(found) == set(tensors)
    for name, array in tensors.items():
      expected = array[OLD_IDS] if name in TABLES else array
      assert found.read(name).tobytes() == expected.tobytes(), name
      assert found.info(name).shape == expected.shape


def cut(folder, out, allow_pickle=False):
  out.mkdir()
  with Weights(folder, allow_pickle) as weights:
    tables = trimmed_weights.vocabulary_tables(weights, bert.NAMES, 10, 4)
    trimmed_weights.write_weights(weights, out, tables, OLD_IDS)
  return tables


def test_one_file(tensors, tmp_path):
  safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
  assert cut(tmp_path, tmp_path / "out") == TABLES
  check(tmp_path / "out", tensors)
  path = tmp_path / "out" / "model.safetensors"
  with safetensors.safe_open(path, framework="pt") as file:
    assert file.metadata() == {"format": "pt"}
    assert file.get_tensor("cls.predictions.decoder.weight").shape == (4, 4)


def test_several_files(tensors, tmp_path):
  names = sorted(tensors)
  places = {}
  for number, part in enumerate((names[:3], names[3:]), start=1):
    file = f"model-0000{number}-of-00002.safetensors"
    safetensors.numpy.save_file({n: tensors[n] for n in part}, tmp_path / file)
    places |= dict.fromkeys(part, file)
  index = {"metadata": {"total_size": 1}, "weight_map": places}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  cut(tmp_path, tmp_path / "out")
  check(tmp_path / "out", tensors)
  path = tmp_path / "out" / "model.safetensors.index.json"
  written = json.loads(path.read_text())
  assert written["weight_map"] == places
  size = sum(
    (a[OLD_IDS] if n in TABLES else a).nbytes for n, a in tensors.items()
  )
  assert written["metadata"]["total_size"] == size


def test_a_pickle_becomes_safetensors(tensors, tmp_path):
  def to_torch(array):
    if array.dtype != jnp.dtype("bfloat16"):
      return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)

  torch.save(
    {name: to_torch(array) for name, array in tensors.items()},
    tmp_path / "pytorch_model.bin",
  )
  cut(tmp_path, tmp_path / "out", allow_pickle=True)
  assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.safetensors"]
  check(tmp_path / "out", tensors)


def test_both_names_of_a_shared_table(tmp_path):
  table = np.arange(40, dtype=np.float32).reshape(10, 4)
  names = ["shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"]
  names += ["decoder.embed_tokens.weight"]
  safetensors.numpy.save_file(
    {name: table for name in names}
    | {"decoder.block.0.layer.0.SelfAttention.q.weight": table},
    tmp_path / "model.safetensors",
  )
  with Weights(tmp_path) as weights:
    found = trimmed_weights.vocabulary_tables(weights, t5.NAMES, 10, 4)
  assert found == set(names)


def test_weights_of_another_config(tensors, tmp_path):
  safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
  with Weights(tmp_path) as weights:
    with pytest.raises(UserError, match="no tensor embeddings.word_embeddings"):
      trimmed_weights.vocabulary_tables(weights, bert.NAMES, 11, 4)
    with pytest.raises(UserError, match="as many tokens as its hidden size"):
      trimmed_weights.vocabulary_tables(weights, bert.NAMES, 10, 10)
