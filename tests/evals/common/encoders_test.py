"""Any encoder, opened to be fine-tuned, and what is said of it."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_ud

from time_jax.core.errors import UserError
from time_jax.evals.common.encoders import open_encoder, write_encoder


def opened(folder, mesh, **options):
  return open_encoder(str(folder), mesh=mesh, dtype="float32", **options)


def test_what_is_written_is_read_again(mesh, tiny, tmp_path):
  first = opened(tiny / "teacher", mesh, dropout=0.1)
  assert first.config.dropout == first.config.attention_dropout == 0.1
  assert "pooler" not in first.params
  write_encoder(tmp_path, first, first.params)
  again = opened(tmp_path, mesh)
  jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_names_sizes_and_shape(mesh, tiny):
  found = opened(tiny / "teacher", mesh)
  assert found.name == f"{tiny.name}/teacher"
  v = found.config.vocab_size
  assert found.shape == {
    "type": "bert",
    "layers": 3,
    "width": 32,
    "heads": 4,
    "vocabulary": v,
  }
  norm, block = 64, 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 64
  assert found.parameters == {
    "all": (v + 64 + 2) * 32 + norm + 3 * block,
    "without_embeddings": norm + 3 * block,
  }


def test_a_pickle_is_read_where_it_is_allowed(mesh, tmp_path):
  torch = pytest.importorskip("torch")
  folder = tiny_ud.write_encoder(tmp_path / "a")
  weights = folder / "model.safetensors"
  tensors = {
    name: torch.tensor(tensor)
    for name, tensor in safetensors.numpy.load_file(weights).items()
  }
  whole = opened(folder, mesh)
  weights.unlink()
  torch.save(tensors, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="--config.allow_pickle=True of finetune"):
    opened(folder, mesh)
  found = opened(folder, mesh, allow_pickle=True)
  jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)
  assert found.identity.value == whole.identity.value
  assert found.identity.legacy != whole.identity.legacy


def test_random_starts_are_told_apart_by_their_shape(mesh, tmp_path):
  tiny_ud.write_encoder(tmp_path / "a")
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  config = json.loads((tmp_path / "b" / "config.json").read_text())
  config["intermediate_size"] = 64
  (tmp_path / "b" / "config.json").write_text(json.dumps(config))
  a, b = (opened(tmp_path / name, mesh, random=True) for name in "ab")
  assert a.params is None and a.name == b.name == "random 2x16"
  shutil.copytree(tmp_path / "a", tmp_path / "c")
  c = tmp_path / "c" / "config.json"
  config = json.loads(c.read_text()) | {"transformers_version": "other"}
  c.write_text(json.dumps(config))
  again = opened(tmp_path / "c", mesh, random=True)
  weights = opened(tmp_path / "a", mesh)
  names = [x.identity.value for x in (a, again, b, weights)]
  assert names[0] == names[1] and len(set(names)) == 3
  assert all(len(bytes.fromhex(name)) == 32 for name in names)
