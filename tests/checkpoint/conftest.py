"""A workdir with two checkpoints, and copies of it to change."""

import shutil

import pytest
from saving import open_in, save_all


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
  """A workdir with the checkpoints 1 and 2, not to be changed."""
  workdir = tmp_path_factory.mktemp("saved")
  with open_in(workdir) as checkpoints:
    save_all(checkpoints, (1, 2), {2: 0.5})
  return workdir


@pytest.fixture
def copy(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  return tmp_path
