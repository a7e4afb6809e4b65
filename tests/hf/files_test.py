"""Finding folders, and what their files may not be."""

import json
import pathlib
import re
import shutil

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from time_jax.core.errors import UserError
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


def test_the_hub_cannot_be_reached(hub):
  hub.answer = LocalEntryNotFoundError("an error happened\nsomewhere")
  with pytest.raises(UserError) as caught:
    files.resolve("owner/name")
  message = str(caught.value)
  assert "not in the Hugging Face cache" in message and "\n" not in message
  assert "hub cannot be reached" in message


def test_pickles_are_downloaded_only_when_needed(hub, tmp_path):
  hub.answer = tmp_path

  def patterns(allow_pickle):
    hub.clear()
    assert files.resolve("owner/name", allow_pickle) == tmp_path
    return [any("bin" in p for p in asked) for _, _, asked in hub]

  assert patterns(False) == [False]
  assert patterns(True) == [False, True]
  (tmp_path / "part-1.safetensors").touch()
  assert patterns(True) == [False]


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


@pytest.mark.parametrize(
  ("name", "allowed"), [("model.safetensors", False), ("pytorch_model.bin", 1)]
)
def test_one_file_or_those_of_an_index(tmp_path, name, allowed):
  def found():
    paths = files.weight_files(tmp_path, allow_pickle=bool(allowed))
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
      files.weight_files(folder, allow_pickle)
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
    files.weight_files(tmp_path)


def test_pickles_are_asked_for(tmp_path):
  path = tmp_path / "pytorch_model.bin"
  path.touch()
  with pytest.raises(UserError, match="pickle only, .*safe_serialization=True"):
    files.weight_files(tmp_path)
  assert files.weight_files(tmp_path, allow_pickle=True) == [path]
  (tmp_path / "model.safetensors").touch()
  for allow_pickle in (False, True):
    (found,) = files.weight_files(tmp_path, allow_pickle)
    assert found.name == "model.safetensors"


def test_a_folder_without_weights(tmp_path):
  # Of a model on the hub a pickle is not there until it is allowed.
  message = (
    f"{tmp_path} has no model.safetensors and no model.safetensors.index.json. "
    "If its weights are a pickle, allow it: --config.teacher.allow_pickle=True "
  )
  with pytest.raises(UserError, match=re.escape(message)):
    files.weight_files(tmp_path)
  (tmp_path / "training_args.bin").touch()
  with pytest.raises(UserError, match=r"no model.safetensors, pytorch_model"):
    files.weight_files(tmp_path, allow_pickle=True)


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
  # What is not read does not count.
  shutil.copy(copy / "model.safetensors", copy / "more.safetensors")
  assert files.fingerprint(copy) == first
  assert len(seen) == 4


def test_the_fingerprint_of_pickles(copy):
  (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
  with pytest.raises(UserError, match="pickle only"):
    files.fingerprint(copy)
  first = files.fingerprint(copy, allow_pickle=True)
  with (copy / "pytorch_model.bin").open("ab") as file:
    file.write(b"!")
  assert files.fingerprint(copy, allow_pickle=True) != first
