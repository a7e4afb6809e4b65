"""A damaged checkpoint is found, moved aside, and in nobody's way."""

import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest
import spoiling
from saving import (
  abstract,
  folder_of,
  open_in,
  save_all,
  steps_in,
  values,
)

from time_jax.checkpoint import checksums, layout, quarantine
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import RestartableError, UserError

pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("saved")
  with open_in(workdir, keep_every=1) as checkpoints:
    save_all(checkpoints, (1, 2, 3), {2: 0.5, 3: 0.4})
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  return tmp_path


def test_a_finished_checkpoint_has_checksums_and_is_sound(saved):
  folders = layout.step_folders(saved)
  assert [folder.name for folder in folders] == ["1", "2", "3"]
  assert all(
    checksums.exist(f) and not checksums.find_damage(f) for f in folders
  )


@pytest.mark.parametrize("name", ["/etc/hosts", "params/../../x", "a\0", "b"])
def test_checksums_name_only_files_of_their_checkpoint(copy, name):
  folder = folder_of(copy, 3)
  (folder / "sha256.json").write_text(json.dumps({name: [1, "0"]}))
  assert "cannot be read" in checksums.find_damage(folder)


def test_what_cannot_be_read_for_now_is_not_damaged(copy, monkeypatch):
  def lost(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(checksums, "_sha256", lost)
  with pytest.raises(RestartableError, match=r"cannot be looked at.*Errno 5"):
    open_in(copy, keep_every=1)
  assert not (copy / "damaged").exists()
  monkeypatch.undo()
  with open_in(copy, keep_every=1) as checkpoints:
    assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.parametrize(
  ("number", "kind", "advice"),
  [
    (errno.EACCES, UserError, "get permission there and run the same"),
    (errno.EIO, RestartableError, "check the disk"),
  ],
)
def test_tensorstore_says_by_a_number_that_it_could_not_look(
  copy, monkeypatch, number, kind, advice
):
  """Of a checkpoint of an older version, which has no checksums."""

  def refuse(*arguments, **options):
    raise ValueError(f"Error reading \"kernel/0.0\" [os_error_code='{number}']")

  (folder_of(copy, 3) / checksums.FILE).unlink()
  monkeypatch.setattr(quarantine.ocp.Checkpointer, "restore", refuse)
  with pytest.raises(kind, match=f"cannot be looked at.*{advice}"):
    open_in(copy, keep_every=1)
  assert not (copy / "damaged").exists()


@pytest.mark.parametrize("way", spoiling.WAYS)
def test_the_run_goes_on_from_the_newest_sound_one(copy, capfd, way):
  spoiling.WAYS[way](folder_of(copy, 3))
  left = {p.name for p in folder_of(copy, 3).rglob("*") if p.is_file()}
  with open_in(copy, keep_every=1) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    found = checkpoints.restore(2, abstract())
    jax.tree.map(np.testing.assert_array_equal, found, values(2))
    said = capfd.readouterr().err
    assert "time_jax: the checkpoint of step 3 is damaged: " in said
    moved = f"It was moved to {copy}/damaged/3; the run continues after step 2."
    assert moved in said and said.count("\n") == 1
    assert {p.name for p in (copy / "damaged").rglob("*/**/*")} >= left
    save_all(checkpoints, [3])
  assert steps_in(copy) == [1, 2, 3]
  with CheckpointReader(copy) as checkpoints:
    found = checkpoints.restore(3, abstract())
  jax.tree.map(np.testing.assert_array_equal, found, values(3))
  with open_in(copy):
    assert not capfd.readouterr().err.count("damaged")


@pytest.mark.parametrize("way", spoiling.WAYS)
def test_reading_says_so_and_touches_nothing(copy, way):
  spoiling.WAYS[way](folder_of(copy, 3))
  before = sorted(copy.rglob("*"))
  with CheckpointReader(copy) as checkpoints:
    with pytest.raises(UserError, match=f"{copy}/checkpoints/3 cannot be read"):
      checkpoints.metadata(3)
      checkpoints.restore(3, abstract())
    checkpoints.restore(2, abstract())
  assert sorted(copy.rglob("*")) == before


def test_several_damaged_ones_and_names_that_are_taken(copy, capfd):
  (copy / "damaged" / "3").mkdir(parents=True)
  for step in (2, 3):
    spoiling.flip(folder_of(copy, step))
  with open_in(copy) as checkpoints:
    assert checkpoints.steps() == [1]
  assert capfd.readouterr().err.count("is damaged: params/") == 2
  assert sorted(p.name for p in (copy / "damaged").iterdir()) == [
    *("2", "3", "3-2")
  ]


def test_without_any_sound_one_it_starts_anew(copy, capfd):
  for step in (1, 2, 3):
    spoiling.empty(folder_of(copy, step))
  with open_in(copy) as checkpoints:
    assert checkpoints.steps() == []
  said = capfd.readouterr().err
  assert said.count("continues anew: no other is left.") == 3


def test_of_older_ones_only_the_scores_count(copy):
  spoiling.flip(folder_of(copy, 1))
  (folder_of(copy, 2) / "metrics" / "metrics").write_text("{")
  with open_in(copy) as checkpoints:
    assert checkpoints.steps() == [1, 3]
    with pytest.raises(UserError, match="has other content than was written"):
      checkpoints.restore(1, abstract())


def test_without_orbax_s_own_marks_it_is_sound(copy):
  for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
    (folder_of(copy, 3) / name).unlink()
  with open_in(copy) as checkpoints:
    assert checkpoints.steps()[-1] == 3
    found = checkpoints.restore(3, abstract())
  jax.tree.map(np.testing.assert_array_equal, found, values(3))


def test_one_without_checksums_is_read_instead(copy):
  """As older versions wrote it."""
  for step in (2, 3):
    (folder_of(copy, step) / checksums.FILE).unlink()
  with open_in(copy) as checkpoints:
    assert checkpoints.steps() == [1, 2, 3]
    found = checkpoints.restore(3, abstract())
  jax.tree.map(np.testing.assert_array_equal, found, values(3))


def test_an_imported_student_is_never_moved(copy):
  shutil.rmtree(folder_of(copy, 3))
  shutil.rmtree(folder_of(copy, 2))
  folder_of(copy, 1).rename(folder_of(copy, 0))
  spoiling.flip(folder_of(copy, 0))
  with pytest.raises(UserError, match="the imported student .*/0 is damaged"):
    open_in(copy)
  assert folder_of(copy, 0).exists()
