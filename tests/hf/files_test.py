"""Finding folders, and what their files may not be."""

import pathlib

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from time_jax.core.errors import UserError
from time_jax.hf import files


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

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
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
