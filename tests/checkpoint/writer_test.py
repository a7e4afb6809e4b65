"""What is kept, what comes back, and what a damaged folder says."""

import errno
import gc
import hashlib
import json
import os
import pathlib
import resource
import shutil
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from meshes import make_mesh
from saving import (
  abstract,
  folder_of,
  open_in,
  save_all,
  steps_in,
  trees,
  values,
)

from time_jax.checkpoint import checksums
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import RunError, UserError
from time_jax.telemetry.history import METRIC

# What Orbax leaves behind in its event loop when an array is damaged.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def no_leftovers():
  yield
  gc.collect()


def test_the_latest_and_the_multiples_stay(tmp_path):
  with open_in(tmp_path, keep_latest=2, keep_every=3) as checkpoints:
    save_all(checkpoints, range(1, 9))
  assert steps_in(tmp_path) == [3, 6, 7, 8]


def test_the_best_stays_even_in_a_resumed_run(tmp_path):
  scores = {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.4, 5: 0.3, 6: 0.2, 7: 0.05, 8: 0.6}
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    save_all(checkpoints, (1, 2, 3), scores)
  assert steps_in(tmp_path) == [2, 3]
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    save_all(checkpoints, (4, 5, 6), scores)
  assert steps_in(tmp_path) == [2, 6]
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    save_all(checkpoints, (7, 8), scores)
  assert steps_in(tmp_path) == [7, 8]


def test_a_score_that_comes_after_the_save_counts(tmp_path):
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    checkpoints.add_scores(0, {METRIC: 0.1})  # There is no such checkpoint.
    save_all(checkpoints, [10, 20], {10: 0.5})
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    checkpoints.add_scores(20, {METRIC: 0.2})
    checkpoints.add_scores(20, {METRIC: 0.9})  # It has scores already.
    save_all(checkpoints, [30])
    assert checkpoints.steps() == [20, 30]
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    save_all(checkpoints, [40], {40: 0.3})
    save_all(checkpoints, [50])
  assert steps_in(tmp_path) == [20, 50]
  folder = folder_of(tmp_path, 20)
  assert checksums.exist(folder) and not checksums.find_damage(folder)
  (folder / "metrics" / "metrics").write_text("{}")
  assert checksums.find_damage(folder).startswith("metrics/metrics has ")


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_no_score(tmp_path, odd):
  with open_in(tmp_path, keep_latest=1) as checkpoints:
    save_all(checkpoints, (1, 2, 3, 4), {1: 0.7, 2: odd, 3: 0.8})
  assert steps_in(tmp_path) == [1, 4]


def test_the_format_on_disk(saved):
  """Later versions read it, and other tools may."""
  folder = folder_of(saved, 2)
  assert {"params", "rest", "metadata", "metrics", "sha256.json"} <= {
    path.name for path in folder.iterdir()
  }
  assert json.loads((folder / "metadata" / "metadata").read_text()) == {
    "run": 2
  }
  assert json.loads((folder / "metrics" / "metrics").read_text()) == {
    METRIC: 0.5,
    "eval/kl_qq": 1.0,
  }
  content = (folder / "metadata" / "metadata").read_bytes()
  known = json.loads((folder / "sha256.json").read_text())
  assert known["metadata/metadata"] == [
    len(content),
    hashlib.sha256(content).hexdigest(),
  ]
  assert {name.split("/")[0] for name in known} == {
    *("params", "rest", "metadata", "metrics"),
  }


def test_saving_a_step_again_does_nothing(copy):
  with open_in(copy) as checkpoints:
    checkpoints.save(2, trees(7), {"run": 7}, wait=True)
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.metadata(2) == {"run": 2}
    found = checkpoints.restore(2, abstract())
  jax.tree.map(np.testing.assert_array_equal, found, values(2))


def test_waiting_means_complete_on_disk(tmp_path):
  with open_in(tmp_path) as checkpoints:
    checkpoints.save(4, trees(4), {"n": [1, {"a": None}]}, wait=True)
    assert steps_in(tmp_path) == [4]
    assert checkpoints.metadata(4) == {"n": [1, {"a": None}]}


def test_parameters_can_be_read_alone(copy):
  """Without the rest: its files may be gone."""
  shutil.rmtree(folder_of(copy, 2) / "rest")
  with CheckpointReader(copy) as checkpoints:
    found = checkpoints.restore(2, {"params": abstract()["params"]})
  assert set(found) == {"params"}
  jax.tree.map(
    np.testing.assert_array_equal, found["params"], values(2)["params"]
  )


@pytest.mark.parametrize(
  ("before", "after"),
  [((8, 1, 1), (1, 1, 1)), ((1, 1, 1), (2, 2, 2)), ((4, 2, 1), (2, 4, 1))],
  ids=str,
)
def test_another_mesh_reads_the_same_bits(tmp_path, before, after):
  with open_in(tmp_path) as checkpoints:
    checkpoints.save(3, trees(3, make_mesh(*before)), {})
  wanted = abstract(make_mesh(*after))
  with CheckpointReader(tmp_path) as checkpoints:
    found = checkpoints.restore(3, wanted)
  jax.tree.map(np.testing.assert_array_equal, found, values(3))
  for leaf, like in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    assert leaf.dtype == like.dtype


def test_reading_changes_nothing(saved):
  before = sorted(saved.rglob("*"))
  with CheckpointReader(saved) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.metadata(1) == {"run": 1}
  assert sorted(saved.rglob("*")) == before


def test_no_checkpoints(tmp_path):
  with pytest.raises(UserError, match="no checkpoints in .*--workdir of a run"):
    CheckpointReader(tmp_path / "nowhere")
  assert not list(tmp_path.iterdir())
  with open_in(tmp_path) as checkpoints:
    assert checkpoints.steps() == []


def biggest_file(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_arrays_are_told(copy, no_leftovers, damage):
  path = biggest_file(folder_of(copy, 2) / "params")
  content = path.read_bytes()
  path.unlink()
  if damage == "cut":
    path.write_bytes(content[: len(content) // 2])
  with CheckpointReader(copy) as checkpoints:
    with pytest.raises(UserError, match="cannot be read: ") as caught:
      checkpoints.restore(2, abstract())
    found = checkpoints.restore(1, abstract())
  message = str(caught.value)
  assert f"the checkpoint {folder_of(copy, 2)} cannot be read" in message
  assert "\n" not in message and "bound method" not in message
  assert message.endswith("Move that folder away to go back to the one before.")
  jax.tree.map(np.testing.assert_array_equal, found, values(1))


def test_damaged_metadata_is_told(copy):
  path = folder_of(copy, 2) / "metadata" / "metadata"
  path.write_text(path.read_text()[:-1])
  with (
    CheckpointReader(copy) as checkpoints,
    pytest.raises(UserError, match=f"{folder_of(copy, 2)} cannot be read"),
  ):
    checkpoints.metadata(2)


def test_damaged_scores_are_told(copy):
  path = folder_of(copy, 2) / "metrics" / "metrics"
  path.write_text(path.read_text()[:5])
  with pytest.raises(UserError, match="cannot be opened: .* move that folder"):
    CheckpointReader(copy)


def test_a_step_that_is_not_there(saved):
  with (
    CheckpointReader(saved) as checkpoints,
    pytest.raises(UserError, match=f"{folder_of(saved, 9)} cannot be read"),
  ):
    checkpoints.restore(9, abstract())


def test_what_a_killed_run_left_is_no_checkpoint(copy):
  half = copy / "checkpoints" / "3.orbax-checkpoint-tmp"
  shutil.copytree(folder_of(copy, 2), half)
  assert steps_in(copy) == [1, 2]
  assert half.exists()
  with open_in(copy) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    save_all(checkpoints, [4])
    assert not half.exists()  # Removed in the background, before any save.
  assert steps_in(copy) == [2, 4]


@pytest.fixture
def small_disk():
  """Files cannot grow beyond 256 KiB: as if the disk were full."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)

  def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))

  yield fill
  resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("wait", [True, False])
def test_a_failed_save_spares_the_others(copy, small_disk, wait):
  big = trees(3, rows=512)
  with (
    pytest.raises(RunError, match="cannot write a checkpoint to ") as caught,
    open_in(copy) as checkpoints,
  ):
    small_disk()
    checkpoints.save(3, big, {}, wait=wait)
    assert not wait
  assert str(copy / "checkpoints") in str(caught.value)
  assert "File too large" in str(caught.value)
  assert steps_in(copy) == [1, 2]
  with CheckpointReader(copy) as checkpoints:
    found = checkpoints.restore(2, abstract())
  jax.tree.map(np.testing.assert_array_equal, found, values(2))


def test_a_failed_save_hides_no_other_error(copy, small_disk, monkeypatch):
  big = trees(3, rows=512)
  # On a quick disk the save itself would already tell of its failure.
  monkeypatch.setattr(ocp.CheckpointManager, "check_for_errors", lambda _: None)
  with pytest.raises(ZeroDivisionError), open_in(copy) as checkpoints:
    small_disk()
    checkpoints.save(3, big, {})
    raise ZeroDivisionError


def test_the_folder_may_be_relative(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with open_in(pathlib.Path("run")) as checkpoints:
    save_all(checkpoints, [1])
  assert steps_in(tmp_path / "run") == [1]


@pytest.mark.parametrize(
  ("number", "words"),
  [
    (errno.EPERM, "lift what forbids it, such as the flag of `chattr +i` and"),
    (errno.EROFS, "mount it writable, or use another disk and"),
    (errno.ENOSPC, "make room and"),
    (errno.ENXIO, "run the same command"),
  ],
)
def test_a_step_folder_that_cannot_be_made(
  monkeypatch, no_leftovers, tmp_path, number, words
):
  """The cause is named, and no thread waits for that folder to come."""
  place = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  mkdir = os.mkdir

  def refuse(path, *args, **kwargs):
    if str(path) == str(place):
      raise OSError(number, os.strerror(number), str(place))
    mkdir(path, *args, **kwargs)

  before = set(threading.enumerate())
  with open_in(tmp_path) as checkpoints:
    checkpoints.save(1, trees(1), {}, wait=True)
    with monkeypatch.context() as patch:
      patch.setattr(os, "mkdir", refuse)
      with pytest.raises(RunError) as caught:
        checkpoints.save(2, trees(2), {}, wait=True)
  line = str(caught.value)
  assert f"[Errno {number}] {os.strerror(number)}: '{place}'. Earlier" in line
  assert f"Earlier checkpoints are untouched; {words} " in line
  for thread in set(threading.enumerate()) - before:
    thread.join(timeout=20)
    assert thread.daemon or not thread.is_alive()
  with open_in(tmp_path) as checkpoints:
    assert checkpoints.steps() == [1]


def test_what_nobody_may_read_is_not_damaged(monkeypatch, tmp_path):
  """Too many files are open, say: it must not be moved away for that."""
  with open_in(tmp_path) as checkpoints:
    checkpoints.save(1, trees(1), {}, wait=True)

  def refuse(path):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

  monkeypatch.setattr(checksums, "_sha256", refuse)
  with pytest.raises(UserError, match="Too many open files") as caught:
    open_in(tmp_path)
  assert "allow more open files (`ulimit -n`) and run" in str(caught.value)
  assert not (tmp_path / "damaged").exists()
