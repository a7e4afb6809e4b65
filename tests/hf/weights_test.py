"""Tensors out of files: every layout and dtype, parts, and damage."""

import json
import pathlib
import pickle
import shutil
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from time_jax.core.errors import UserError
from time_jax.hf import weights
from time_jax.hf.weights import Weights

INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"


@pytest.fixture
def copy(golden, tmp_path):
  """BERT's weights, to be spoilt."""
  shutil.copyfile(
    golden / "bert" / "model.safetensors", tmp_path / "model.safetensors"
  )
  return tmp_path


@pytest.fixture
def expected(golden):
  return safetensors.numpy.load_file(golden / "bert" / "model.safetensors")


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


def assert_holds(found: Weights, expected):
  assert set(found) == set(expected)
  for name, tensor in expected.items():
    assert found.shape(name) == tensor.shape
    assert found.info(name).bytes == tensor.nbytes
    assert found.info(name).dtype == tensor.dtype
    assert found.read(name).dtype == tensor.dtype
    np.testing.assert_array_equal(found.read(name), tensor)


def test_tensors_by_name(copy, expected):
  with Weights(copy) as found:
    assert_holds(found, expected)
    assert "pooler.dense.bias" in found and "pooler" not in found
    assert found.files.paths == [copy / "model.safetensors"]


KINDS = ["float64", "float32", "float16", "bfloat16", "int64", "int8", "bool"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype(tmp_path, kind):
  """And what it is cast to."""
  dtype = np.dtype(getattr(ml_dtypes, kind, kind))
  tensor = (np.arange(24).reshape(4, 6) * 5 - 7).astype(dtype)
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file({"a": tensor}, path)
  found = Weights(tmp_path)
  assert_holds(found, {"a": tensor})
  assert (found.info("a").dtype in weights.FLOATS) == ("float" in kind)
  for wide in (np.float32, ml_dtypes.bfloat16):
    target = np.empty((4, 6), wide)
    found.read_into(target, "a")
    np.testing.assert_array_equal(target, tensor.astype(wide))


def split(folder, index=None):
  """Spreads the tensors over two files; only the index says which."""
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  names = sorted(tensors)
  table = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
  for part in set(table.values()):
    mine = {name: tensors[name] for name in names if table[name] == part}
    safetensors.numpy.save_file(mine, folder / part)
  (folder / "model.safetensors").unlink()
  index = {"weight_map": table} if index is None else index
  (folder / INDEX).write_text(json.dumps(index))


def test_many_files(copy, expected):
  split(copy)
  with Weights(copy) as found:
    assert_holds(found, expected)
    assert [path.name for path in found.files.paths] == [
      "part-0.safetensors",
      "part-1.safetensors",
    ]


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
@pytest.mark.parametrize("mapped", [0, 1000, 1 << 20])
@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_parts(tmp_path, monkeypatch, chunk, mapped, kind):
  """However much is read at once, and however often files are opened."""
  monkeypatch.setattr(weights, "_CHUNK", chunk)
  monkeypatch.setattr(weights, "_MAPPED", mapped)
  tensors = {
    "cube": np.arange(7 * 5 * 3, dtype=np.float32).reshape(7, 5, 3),
    "line": np.arange(9, dtype=np.float16),
  }
  if kind == "pickle":
    torch = pytest.importorskip("torch")
    torch.save(
      {name: torch.tensor(t) for name, t in tensors.items()}, tmp_path / PICKLE
    )
  else:
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
  found = Weights(tmp_path, allow_pickle=True)
  for name, index in (
    ("cube", (slice(None), slice(None), slice(None))),
    ("cube", (slice(2, 6), slice(0, 5), slice(1, 3))),
    ("cube", (slice(6, 7), slice(4, 5), slice(0, 3))),
    ("line", (slice(3, 9),)),
    ("line", (slice(4, 4),)),
  ):
    part = tensors[name][index]
    target = np.full(part.shape, -1, np.float32)
    found.read_into(target, name, index)
    np.testing.assert_array_equal(target, part)
    turned = np.full(part.shape[::-1], -1, np.float32)
    found.read_into(turned.T, name, index)
    np.testing.assert_array_equal(turned, part.T)


@pytest.mark.parametrize("size", [0, 4, 500, 100_000])
def test_damaged_files(copy, size):
  path = copy / "model.safetensors"
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(UserError, match=f"{path} is damaged or incomplete: "):
    Weights(copy)


def test_weights_that_are_no_file(copy):
  (copy / "model.safetensors").unlink()
  (copy / "model.safetensors").mkdir()
  with pytest.raises(UserError, match="is damaged or incomplete"):
    Weights(copy)


class Bomb:
  """A pickle of it creates a file when it is loaded."""

  def __init__(self, path: pathlib.Path) -> None:
    self.path = path

  def __reduce__(self):
    return (pathlib.Path.touch, (self.path / "exploded",))


def test_pickles_are_not_opened(tmp_path):
  (tmp_path / PICKLE).write_bytes(pickle.dumps(Bomb(tmp_path)))
  with pytest.raises(UserError, match="pickle only, .*safe_serialization=True"):
    Weights(tmp_path)
  assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_are_allowed(tmp_path, torch, expected, zipped):
  """As torch writes them now, and as it did before 1.6."""
  expected["half"] = expected["pooler.dense.weight"].astype(ml_dtypes.bfloat16)
  tensors = {
    name: torch.tensor(tensor.astype(np.float32)).to(
      torch.bfloat16 if name == "half" else torch.float32
    )
    for name, tensor in expected.items()
  }
  path = tmp_path / PICKLE
  torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
  with pytest.raises(UserError, match=r"teacher.allow_pickle=True"):
    Weights(tmp_path)
  with Weights(tmp_path, allow_pickle=True) as found:
    assert_holds(found, expected)
    assert found.files.paths == [path]


def test_pickles_in_many_files(tmp_path, torch, expected):
  names = sorted(expected)
  table = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
  for part in set(table.values()):
    mine = {n: torch.tensor(expected[n]) for n in names if table[n] == part}
    torch.save(mine, tmp_path / part)
  index = tmp_path / f"{PICKLE}.index.json"
  index.write_text(json.dumps({"weight_map": table}))
  assert_holds(Weights(tmp_path, allow_pickle=True), expected)
  (tmp_path / "pytorch_model-1.bin").unlink()
  with pytest.raises(UserError, match=r"names \['pytorch_model-1.bin'\], miss"):
    Weights(tmp_path, allow_pickle=True)


def test_safetensors_come_first(copy, expected):
  (copy / PICKLE).write_bytes(pickle.dumps(Bomb(copy)))
  assert_holds(Weights(copy, allow_pickle=True), expected)
  assert not (copy / "exploded").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_more_than_tensors(tmp_path, torch, zipped):
  torch.save(
    {"a": Bomb(tmp_path)},
    tmp_path / PICKLE,
    _use_new_zipfile_serialization=zipped,
  )
  with pytest.raises(UserError, match="is refused by torch.load") as caught:
    Weights(tmp_path, allow_pickle=True)
  message = str(caught.value)
  assert "Unsupported global" in message and "\n" not in message
  assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [["x"], {"a": {"b": 1}}, {}, 3])
def test_pickles_without_tensors(tmp_path, torch, content):
  torch.save(content, tmp_path / PICKLE)
  with pytest.raises(UserError, match="holds no tensors by name"):
    Weights(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("kept", [0, 5, 300, -9])
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles(tmp_path, torch, kept, zipped):
  path = tmp_path / PICKLE
  tensors = {"a": torch.ones(3, 4)}
  torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(UserError, match="damaged") as caught:
    Weights(tmp_path, allow_pickle=True)
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_pickles_need_torch(tmp_path, monkeypatch):
  (tmp_path / PICKLE).write_bytes(pickle.dumps({}))
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match="only torch reads, .* pip install torch"):
    Weights(tmp_path, allow_pickle=True)
