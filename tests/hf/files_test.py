"""Finding folders, and what their files may not be."""

import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import safetensors.numpy

from time_jax.errors import UserError
from time_jax.hf import files

INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(golden, tmp_path):
  """BERT's config and weights, to be spoilt."""
  for name in ("config.json", "model.safetensors"):
    shutil.copyfile(golden / "bert" / name, tmp_path / name)
  return tmp_path


@pytest.fixture
def hub(monkeypatch):
  """What was asked of the hub; `answer` is a folder or an exception."""

  class Hub(list):
    answer: pathlib.Path | Exception = pathlib.Path("/cache/snapshot")

  hub = Hub()

  def snapshot_download(name, *, revision, allow_patterns):
    hub.append((name, revision, allow_patterns))
    if isinstance(hub.answer, Exception):
      raise hub.answer
    return str(hub.answer)

  monkeypatch.setattr(files, "snapshot_download", snapshot_download)
  return hub


def test_a_folder_is_itself(tmp_path, monkeypatch, hub):
  assert files.resolve(str(tmp_path)) == tmp_path
  (tmp_path / "owner" / "name").mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  # A folder comes before a hub id of the same name.
  assert files.resolve("owner/name") == pathlib.Path("owner/name")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert files.resolve("~/owner") == tmp_path / "owner"
  assert hub == []


@pytest.mark.parametrize(
  "path", ["/no/where", "./no", "../no", "~/no", "a/b/c"]
)
def test_a_path_that_is_no_folder(path, hub):
  with pytest.raises(UserError, match=f"no model folder at '{path}'"):
    files.resolve(path)
  assert hub == []


def test_a_package_holds_a_folder(tmp_path, monkeypatch):
  (tmp_path / "some_weights" / "small").mkdir(parents=True)
  (tmp_path / "some_weights" / "__init__.py").write_text("raise SystemError")
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / "some_weights"
  assert files.resolve("package:some_weights") == package
  assert files.resolve("package:some_weights/small") == package / "small"
  with pytest.raises(UserError, match="'some_weights' has no folder 'big'"):
    files.resolve("package:some_weights/big")


@pytest.mark.parametrize(
  "name", ["no_such_thing", "no_such.thing", "json.x", ""]
)
def test_a_package_that_is_missing(name):
  words = f"the Python package '{name}' is not installed; try: pip install"
  with pytest.raises(UserError, match=words):
    files.resolve(f"package:{name}/small")


def test_the_hub_gets_id_and_revision(hub):
  assert files.resolve("owner/name") == hub.answer
  assert files.resolve("owner/name@abc123") == hub.answer
  assert files.resolve("name@") == hub.answer
  assert [call[:2] for call in hub] == [
    ("owner/name", None),
    ("owner/name", "abc123"),
    ("name", None),
  ]
  for _, _, patterns in hub:
    assert "*.safetensors" in patterns and "*.json" in patterns
    assert not any("bin" in p or "py" in p for p in patterns)


def test_the_hub_says_no(hub):
  hub.answer = OSError("404 Client Error.\n\nRepository not found: long story")
  with pytest.raises(UserError) as caught:
    files.resolve("owner/nmae@v2")
  message = str(caught.value)
  assert "no model at 'owner/nmae@v2'" in message
  assert "404 Client Error." in message and "\n" not in message
  assert caught.value.__cause__ is hub.answer


def test_json_is_read(tmp_path):
  (tmp_path / "a.json").write_text('{"é": [1]}', encoding="utf-8")
  assert files.read_json(tmp_path / "a.json") == {"é": [1]}


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (None, "a.json is missing"),
    (b"{", "a.json is not readable JSON"),
    (b"", "a.json is not readable JSON"),
    (b'{"a": "\xff"}', "a.json is not readable JSON"),
    (b"[1]", "a.json holds list, expected {...}"),
    (b"null", "a.json holds NoneType"),
  ],
)
def test_json_that_is_not(tmp_path, content, words):
  if content is not None:
    (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UserError, match=words):
    files.read_json(tmp_path / "a.json")


def test_a_folder_is_no_json(tmp_path):
  with pytest.raises(UserError, match="is not readable JSON"):
    files.read_json(tmp_path)


def test_weights_by_name(copy):
  expected = safetensors.numpy.load_file(copy / "model.safetensors")
  weights = files.Weights(copy)
  assert set(weights) == set(expected)
  assert "pooler.dense.bias" in weights and "pooler" not in weights
  for name, tensor in expected.items():
    assert weights.shape(name) == tensor.shape
    np.testing.assert_array_equal(weights.read(name), tensor)
  weights.close()


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
  return tensors


def test_weights_in_many_files(copy):
  expected = split(copy)
  weights = files.Weights(copy)
  assert set(weights) == set(expected)
  for name, tensor in expected.items():
    np.testing.assert_array_equal(weights.read(name), tensor)


def test_a_missing_part(copy):
  split(copy)
  (copy / "part-1.safetensors").unlink()
  with pytest.raises(UserError, match=r"names \['part-1.safetensors'\]"):
    files.Weights(copy)


@pytest.mark.parametrize(
  "name", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..", ""]
)
def test_an_index_stays_in_its_folder(copy, name):
  inner = copy / "inner"
  (inner / "sub").mkdir(parents=True)
  for place in (copy, inner / "sub"):
    shutil.copy(copy / "model.safetensors", place / "x.safetensors")
  shutil.copy(copy / "model.safetensors", inner)
  name = str(copy) + name if name.startswith("/") else name
  split(inner, {"weight_map": {"a": "part-0.safetensors", "b": name}})
  with pytest.raises(UserError) as caught:
    files.Weights(inner)
  assert f"{inner / INDEX} names {[name]}" in str(caught.value)
  assert "expected files that lie beside it" in str(caught.value)


@pytest.mark.parametrize(
  "index",
  [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": [1]}}],
)
def test_an_index_of_nothing(copy, index):
  split(copy, index)
  with pytest.raises(UserError, match="expected files that lie beside it"):
    files.Weights(copy)


def test_pickles_are_not_opened(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (pathlib.Path(tmp_path / "exploded").touch, ())

  path = tmp_path / "pytorch_model.bin"
  path.write_bytes(pickle.dumps(Bomb()))
  with pytest.raises(UserError, match="pickle only, .*safe_serialization=True"):
    files.Weights(tmp_path)
  assert not (tmp_path / "exploded").exists()


def test_a_folder_without_weights(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path} has no model.safetensors"):
    files.Weights(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 500, 100_000])
def test_damaged_weights(copy, size):
  path = copy / "model.safetensors"
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(UserError, match=f"{path} is damaged or incomplete: "):
    files.Weights(copy)


def test_weights_that_are_no_file(copy):
  (copy / "model.safetensors").unlink()
  (copy / "model.safetensors").mkdir()
  with pytest.raises(UserError, match="is damaged or incomplete"):
    files.Weights(copy)


def test_the_fingerprint_sees_every_byte(copy, tmp_path_factory):
  first = files.fingerprint(copy)
  assert len(first) == 64
  elsewhere = tmp_path_factory.mktemp("elsewhere")
  shutil.copytree(copy, elsewhere, dirs_exist_ok=True)
  (elsewhere / "README.md").write_text("no part of the model")
  assert files.fingerprint(elsewhere) == first
  seen = {first}
  for name, position in (
    ("config.json", 7),
    ("model.safetensors", 9),
    ("model.safetensors", -1),
  ):
    path = copy / name
    content = path.read_bytes()
    changed = bytearray(content)
    changed[position] ^= 1
    path.write_bytes(changed)
    seen.add(files.fingerprint(copy))
    path.write_bytes(content)
  assert files.fingerprint(copy) == first
  shutil.copy(copy / "model.safetensors", copy / "more.safetensors")
  seen.add(files.fingerprint(copy))
  assert len(seen) == 5
