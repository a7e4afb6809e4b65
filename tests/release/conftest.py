"""Students and exports that the tests of this folder share."""

import functools

import exporting
import in_process
import pytest

from time_jax.hf import torch_encoder
from time_jax.parallel import sharding


@pytest.fixture(scope="session")
def imported(tiny, tmp_path_factory):
  """A workdir with an imported student, beside its `source`."""
  home = tmp_path_factory.mktemp("imported")
  source = exporting.random_model(home / "source", tiny / "teacher")
  in_process.run("import", source, f"--workdir={home / 'run'}")
  return home / "run"


@pytest.fixture(scope="session")
def exports(imported, tmp_path_factory):
  """Name of a class -> the export of `imported` as that class."""

  @functools.cache
  def export(name):
    out = tmp_path_factory.mktemp("exported") / name
    flags = f"--workdir={imported}", f"--class={name}", f"--out={out}"
    in_process.run("export", *flags)
    return out

  return export


@pytest.fixture(autouse=True)
def one_device(mesh, monkeypatch):
  """So that nothing is compiled for, and computed by, eight of them."""
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)


@pytest.fixture
def without_torch(monkeypatch):
  """For what is not about the check in PyTorch, which takes its time."""
  monkeypatch.setattr(torch_encoder, "installed", lambda: False)
