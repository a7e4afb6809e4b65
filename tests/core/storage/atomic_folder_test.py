"""A folder that appears whole, whenever what writes it is killed."""

import pathlib

import pytest

from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_folder
from time_jax.core.storage.atomic_folder import explain_missing
from time_jax.hf import files, fine_tuned
from time_jax.run import run_files


class Killed(BaseException):
  pass


def write(out, text, error=None):
  with atomic_folder.atomic_folder(out, "--out") as fresh:
    (fresh / "file").write_text(text)
    if error:
      raise error


def killed_between_the_renames(out, monkeypatch):
  """Nothing of the program runs any more after the first one."""
  replace, calls = pathlib.Path.replace, []

  def once(path, target):
    calls.append(path)
    if len(calls) > 1:
      raise Killed
    return replace(path, target)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "replace", once)
    patch.setattr(atomic_folder, "delete", lambda path: None)
    with pytest.raises(Killed):
      write(out, "new")
  names = {p.name for p in out.parent.iterdir()}
  assert names == {".out.unfinished", ".out.replaced"}


@pytest.fixture
def out(tmp_path):
  return tmp_path / "out"


def test_it_takes_the_place_of_another(out):
  for text in ("old", "new"):
    write(out, text)
    assert (out / "file").read_text() == text
    assert list(out.parent.iterdir()) == [out]
  with pytest.raises(RunError):
    write(out, "newer", RunError("no"))
  assert (out / "file").read_text() == "new"
  assert {p.name for p in out.parent.iterdir()} == {"out", ".out.unfinished"}
  with pytest.raises(UserError):
    write(out, "newer", UserError("no"))
  assert (out / "file").read_text() == "new"
  assert list(out.parent.iterdir()) == [out]


def test_what_comes_there_meanwhile_is_not_replaced(out):
  atomic_folder.check_empty(out, "--out")
  out.mkdir()
  with (
    pytest.raises(UserError, match=f"--out={out} holds something; expected an"),
    atomic_folder.atomic_folder(out, "--out", replace=False),
  ):
    (out / "file").write_text("another's")
  assert (out / "file").read_text() == "another's"
  assert list(out.parent.iterdir()) == [out]
  for taken in (out, out / "file"):
    with pytest.raises(UserError, match="holds something"):
      atomic_folder.check_empty(taken, "--out")


def test_killed_between_its_renames_it_is_put_back(out, monkeypatch):
  write(out, "old")
  killed_between_the_renames(out, monkeypatch)
  with pytest.raises(RunError):  # The next attempt fails.
    write(out, "newer", RunError("no"))
  assert (out / "file").read_text() == "old"
  write(out, "newer")
  assert (out / "file").read_text() == "newer"
  assert list(out.parent.iterdir()) == [out]


def test_an_empty_folder_in_its_place_hides_nothing(out, monkeypatch):
  write(out, "old")
  killed_between_the_renames(out, monkeypatch)
  out.mkdir()
  with pytest.raises(RunError):
    write(out, "newer", RunError("no"))
  assert (out / "file").read_text() == "old"


def test_readers_say_that_it_was_interrupted(out, monkeypatch):
  assert not explain_missing(out)
  write(out, "old")
  killed_between_the_renames(out, monkeypatch)
  for reader in (
    files.resolve,
    fine_tuned.read_description,
    run_files.read_config,
  ):
    with pytest.raises(UserError) as caught:
      reader(str(out) if reader is files.resolve else out)
    assert f"what it held is {out.parent}/.out.replaced, and" in str(
      caught.value
    )
  write(out, "new")
  assert not explain_missing(out)


def test_the_root_of_the_disk_holds_no_model():
  root = pathlib.Path("/")
  assert not explain_missing(root)
  with pytest.raises(UserError, match="^/ holds no task.json; expected the"):
    fine_tuned.read_description(root)


def test_a_rename_that_fails_leaves_what_was(out, monkeypatch):
  write(out, "old")
  replace, calls = pathlib.Path.replace, []

  def second_fails(path, target):
    calls.append(path)
    if len(calls) == 2:
      raise OSError(5, "Input/output error")
    return replace(path, target)

  monkeypatch.setattr(pathlib.Path, "replace", second_fails)
  with pytest.raises(UserError, match="Input/output error"):
    write(out, "new")
  assert (out / "file").read_text() == "old"
  assert list(out.parent.iterdir()) == [out]


def test_two_do_not_write_one_folder(out):
  with atomic_folder.atomic_folder(out, "--out") as fresh:
    (fresh / "file").write_text("first")
    with pytest.raises(UserError, match=f"--out={out} is being written by "):
      write(out, "second")
  assert (out / "file").read_text() == "first"
