"""Files appear whole, and JSON is written in one way that all readers take."""

import dataclasses
import pathlib

import pytest

from time_jax.core.storage import atomic_file, paths

PACKAGE = pathlib.Path(atomic_file.__file__).parents[2]
# The writer itself, and what hashes JSON and writes something else.
EXCEPTIONS = {"atomic_file", "finetuning"}


def test_json_files_are_written_by_the_one_writer():
  """Elsewhere NaN would appear, which is no JSON."""
  for path in PACKAGE.rglob("*.py"):
    text = path.read_text()
    assert "json.dump(" not in text, path
    writes = any(word in text for word in ("write_text(", "write_bytes("))
    assert path.stem in EXCEPTIONS or not writes or "json.dumps(" not in text


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  atomic_file.write_json(path, {"b": 1, "a": 2}, sort_keys=True)
  assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'

  def fail(*_):
    raise OSError(5, "Input/output error")

  with monkeypatch.context() as patch:
    patch.setattr(atomic_file.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
      atomic_file.write_text(path, "new")
  assert atomic_file.read_json(path) == {"a": 2, "b": 1}
  atomic_file.write_bytes(path, b"\xff")
  assert path.read_bytes() == b"\xff"
  with pytest.raises(ValueError, match="utf-8"):
    atomic_file.read_json(path)


@dataclasses.dataclass(frozen=True)
class Shard:
  name: str
  rows: int
  files: tuple[str, ...] = ()


def test_a_dataclass_has_the_types_that_it_states():
  assert atomic_file.from_json(Shard, {"name": "a", "rows": 1}).rows == 1
  for wrong in ({"rows": "1"}, {"rows": True}, {"files": []}, {"more": 1}, {}):
    with pytest.raises(TypeError):
      atomic_file.from_json(Shard, {"name": "a"} | wrong)


def test_files_are_listed_and_deleted(tmp_path):
  folder = tmp_path / "a"
  (folder / "b").mkdir(parents=True)
  for name in ("2", "b/1", "1"):
    (folder / name).touch()
  listed = [str(p.relative_to(folder)) for p in paths.list_files(folder)]
  assert listed == ["1", "2", "b/1"]
  assert paths.list_files(folder, "*/*") == [folder / "b" / "1"]
  assert paths.list_files(tmp_path / "none") == []
  (tmp_path / "link").symlink_to(folder)
  for path in (tmp_path / "link", folder / "1", tmp_path / "none"):
    paths.delete(path)
    assert not path.is_symlink() and not path.exists()
  assert (folder / "2").exists()
  paths.delete(folder)
  assert not list(tmp_path.iterdir())
