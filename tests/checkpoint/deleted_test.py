"""Checkpoints that a run deletes while another command reads them."""

import shutil
import threading
import time

import pytest
from saving import (
  abstract,
  folder_of,
  open_in,
  save_all,
  steps_in,
)

from time_jax.checkpoint import reader
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import GoneError
from time_jax.run import choose

pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def delete_slowly(folder):
  for path in sorted(folder.rglob("*"), reverse=True):
    time.sleep(0.02)
    path.rmdir() if path.is_dir() else path.unlink()
  folder.rmdir()


@pytest.mark.parametrize("slowly", [False, True])
def test_one_that_its_run_deletes_is_not_damaged(copy, slowly):
  with CheckpointReader(copy) as checkpoints:
    steps = checkpoints.steps()
    thread = threading.Thread(target=delete_slowly, args=[folder_of(copy, 1)])
    thread.start()
    if slowly:
      while (folder_of(copy, 1) / "params").exists():
        time.sleep(0.005)
    else:
      thread.join()
    for read in (checkpoints.metadata, checkpoints.positions):
      with pytest.raises(GoneError, match="was deleted while it was read"):
        read(1)
        checkpoints.restore(1, abstract())
    checkpoints.restore(2, abstract())
    thread.join()
  assert steps == [1, 2] and steps_in(copy) == [2]


def test_those_that_stay_are_scored(copy, capsys):
  with open_in(copy, keep_latest=9) as checkpoints:
    save_all(checkpoints, (3, 4))
  with CheckpointReader(copy) as checkpoints:

    def score(step):
      if step == 2:  # The one before it, and the one after it.
        for gone in (1, 3):
          shutil.rmtree(folder_of(copy, gone))
      return {"loss": checkpoints.metadata(step)["run"]}

    found = choose.scores_of(checkpoints, score)
  assert found == {2: {"loss": 2}, 4: {"loss": 4}}
  assert "left out: step 1, 3, which the run deleted" in capsys.readouterr().err


def test_a_checkpoint_may_vanish_while_all_are_opened(copy, monkeypatch):
  manager = reader.Manager

  def opened(folder, options):
    if (gone := folder_of(copy, 1)).exists():
      shutil.rmtree(gone)
      raise FileNotFoundError(str(gone))
    return manager(folder, options=options)

  monkeypatch.setattr(reader, "Manager", opened)
  assert steps_in(copy) == [2]
