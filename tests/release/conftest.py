"""Students and exports that the tests of this folder share."""

import functools
import shutil

import alone
import exporting
import pytest
import running

from time_jax.hf import torch_encoder
from time_jax.parallel import sharding


@pytest.fixture(scope="session")
def imported(tiny, tmp_path_factory):
  """A workdir with an imported student, beside its `source`."""
  home = tmp_path_factory.mktemp("imported")
  source = exporting.random_model(home / "source", tiny / "teacher")
  alone.run("import", source, f"--workdir={home / 'run'}")
  return home / "run"


@pytest.fixture(scope="session")
def exports(imported, tmp_path_factory):
  """Name of a class -> the export of `imported` as that class."""

  @functools.cache
  def export(name):
    out = tmp_path_factory.mktemp("exported") / name
    flags = f"--workdir={imported}", f"--class={name}", f"--out={out}"
    alone.run("export", *flags)
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


@pytest.fixture(scope="session")
def distilled(tiny, tmp_path_factory):
  """A finished run with three checkpoints; not to be changed."""
  workdir = tmp_path_factory.mktemp("distilled")
  flag = "--config.checkpoint.keep_every=10"
  output = alone.run(*running.command(tiny, workdir, flag))
  assert f"Next: python -m time_jax choose --workdir={workdir}" in output
  return workdir


@pytest.fixture(scope="session")
def released(distilled, tmp_path_factory):
  """A copy of the run, chosen and exported; and what the commands printed."""
  workdir = tmp_path_factory.mktemp("released") / "run"
  shutil.copytree(distilled, workdir)
  chosen = alone.run("choose", f"--workdir={workdir}")
  flag = "--license=cc-by-4.0"
  exported = alone.run("export", f"--workdir={workdir}", flag)
  return workdir, chosen, exported
