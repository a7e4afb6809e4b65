"""Which files of a folder hold weights, and their fingerprint."""

import json
import re
import shutil

import pytest

from time_jax.core.errors import UserError
from time_jax.hf import weight_files

INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(golden, tmp_path):
  """BERT's config and weights, to be spoilt."""
  for name in ("config.json", "model.safetensors"):
    shutil.copyfile(golden / "bert" / name, tmp_path / name)
  return tmp_path


@pytest.mark.parametrize(
  ("name", "allowed"), [("model.safetensors", False), ("pytorch_model.bin", 1)]
)
def test_one_file_or_those_of_an_index(tmp_path, name, allowed):
  def found():
    paths = weight_files.find_weights(tmp_path, bool(allowed)).paths
    return [path.name for path in paths]

  (tmp_path / name).touch()
  assert found() == [name]
  (tmp_path / name).unlink()
  _, _, end = name.partition(".")
  table = {"a": f"2.{end}", "b": f"1.{end}", "c": f"2.{end}"}
  for part in table.values():
    (tmp_path / part).touch()
  (tmp_path / f"{name}.index.json").write_text(
    json.dumps({"weight_map": table})
  )
  assert found() == [f"1.{end}", f"2.{end}"]
  (tmp_path / f"1.{end}").unlink()
  with pytest.raises(UserError, match=rf"names \['1.{end}'\], missing in that"):
    found()


@pytest.mark.parametrize(
  "name",
  [
    *("../x.safetensors", "/x.safetensors", "sub/x.safetensors"),
    *("..", "", "x.bin", "pytorch_model.bin"),
  ],
)
def test_an_index_stays_in_its_folder(tmp_path, name):
  """And names no pickle, of which nobody was asked."""
  folder = tmp_path / "inner"
  (folder / "sub").mkdir(parents=True)
  for place in (tmp_path, folder, folder / "sub"):
    for file in ("x.safetensors", "x.bin", "pytorch_model.bin"):
      (place / file).touch()
  name = f"{tmp_path}{name}" if name.startswith("/") else name
  table = {"weight_map": {"a": "x.safetensors", "b": name}}
  (folder / INDEX).write_text(json.dumps(table))
  for allow_pickle in (False, True):
    with pytest.raises(UserError) as caught:
      weight_files.find_weights(folder, allow_pickle)
    assert f"{folder / INDEX} names {[name]}; expected .safetensors files" in (
      str(caught.value)
    )


@pytest.mark.parametrize(
  "index",
  [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": [1]}}],
)
def test_an_index_of_nothing(tmp_path, index):
  (tmp_path / INDEX).write_text(json.dumps(index))
  with pytest.raises(UserError, match="expected .safetensors files that"):
    weight_files.find_weights(tmp_path)


def test_pickles_are_asked_for(tmp_path):
  path = tmp_path / "pytorch_model.bin"
  path.touch()
  with pytest.raises(UserError, match="pickle only, .*safe_serialization=True"):
    weight_files.find_weights(tmp_path)
  assert weight_files.find_weights(tmp_path, allow_pickle=True).paths == [path]
  (tmp_path / "model.safetensors").touch()
  for allow_pickle in (False, True):
    (found,) = weight_files.find_weights(tmp_path, allow_pickle).paths
    assert found.name == "model.safetensors"


def test_a_folder_without_weights(tmp_path):
  # Of a model on the hub a pickle is not there until it is allowed.
  message = (
    f"{tmp_path} has no model.safetensors and no model.safetensors.index.json. "
    "If its weights are a pickle, allow it: --config.teacher.allow_pickle=True "
  )
  with pytest.raises(UserError, match=re.escape(message)):
    weight_files.find_weights(tmp_path)
  (tmp_path / "training_args.bin").touch()
  with pytest.raises(UserError, match=r"no model.safetensors, pytorch_model"):
    weight_files.find_weights(tmp_path, allow_pickle=True)


def test_the_fingerprint_sees_every_byte(copy, tmp_path_factory):
  first = weight_files.fingerprint(copy)
  assert len(first) == 64
  elsewhere = tmp_path_factory.mktemp("elsewhere")
  shutil.copytree(copy, elsewhere, dirs_exist_ok=True)
  (elsewhere / "README.md").write_text("no part of the model")
  assert weight_files.fingerprint(elsewhere) == first
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
    seen.add(weight_files.fingerprint(copy))
    path.write_bytes(content)
  assert weight_files.fingerprint(copy) == first
  # What is not read does not count.
  shutil.copy(copy / "model.safetensors", copy / "more.safetensors")
  assert weight_files.fingerprint(copy) == first
  assert len(seen) == 4


def test_the_fingerprint_of_pickles(copy):
  (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
  with pytest.raises(UserError, match="pickle only"):
    weight_files.fingerprint(copy)
  first = weight_files.fingerprint(copy, allow_pickle=True)
  with (copy / "pytorch_model.bin").open("ab") as file:
    file.write(b"!")
  assert weight_files.fingerprint(copy, allow_pickle=True) != first
