"""What is wrong with a machine is found, named, and comes with advice."""

import collections
import importlib.metadata
import shutil

import pytest

from time_jax.cli import doctor, main


@pytest.fixture(autouse=True)
def sound_machine(monkeypatch, tmp_path):
  """Nothing of what these tests are about, wherever they run."""
  for name in doctor._SETTINGS:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
  which = shutil.which
  monkeypatch.setattr(
    shutil, "which", lambda x: None if x == "nvidia-smi" else which(x)
  )


def problems(capsys, *argv):
  """The problems that are listed; checks how the list and the code agree."""
  code = main.main(["doctor", *argv])
  output = capsys.readouterr()
  assert not output.err
  lines = output.out.splitlines()
  found = [x for x in lines if x.startswith("PROBLEM: ")]
  assert code == (2 if found else 0)
  last = f"{len(found)} problem(s)." if found else "Ready to run."
  assert lines[-1] == last
  return [line.removeprefix("PROBLEM: ") for line in found], output.out


def test_a_sound_machine(capsys, tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  found, text = problems(capsys, f"--workdir={tmp_path}/runs/new")
  assert found == []
  assert text.startswith("python 3.")
  for words in ("\njax 0.", "\ntransformers ", "\n8 x cpu (cpu)\n", " GiB"):
    assert words in text
  assert f"workdir: {tmp_path}/runs/new, " in text
  assert "\nJAX_PLATFORMS=cpu\n" in text
  # It leaves no trace but the folder that was asked about.
  assert list((tmp_path / "runs" / "new").iterdir()) == []


@pytest.mark.parametrize(
  ("version", "words"),
  [
    (None, "is not installed"),
    ("0.10.1", "0.10.1"),
    ("0.10.2rc1", "0.10.2rc1"),
    ("0.11", None),
    ("1.0.dev3+g123", None),
  ],
)
def test_a_package_that_is_missing_or_old(capsys, monkeypatch, version, words):
  installed = doctor._version
  monkeypatch.setattr(
    doctor,
    "_version",
    lambda name: version if name == "jax" else installed(name),
  )
  problem = f"jax {words}; expected >=0.10.2: pip install 'jax>=0.10.2'."
  assert problems(capsys)[0] == [problem] * bool(words)


def test_a_checkout_that_is_not_installed(capsys, monkeypatch):
  def requires(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "requires", requires)
  found, text = problems(capsys)
  assert found == [] and "\ntime-jax is not installed: " in text


def test_a_flag_that_xla_does_not_know(capsys, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
  (problem,), text = problems(capsys)
  assert problem.startswith("XLA rejects XLA_FLAGS: ")
  assert "--xla_no_such_flag" in problem and "Remove the flag" in problem
  assert "\nXLA_FLAGS=--xla_no_such_flag=1\n" in text


def test_flags_that_xla_knows(capsys, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
  assert problems(capsys)[0] == []


def test_settings_of_processes(capsys, monkeypatch):
  monkeypatch.setenv("TIME_JAX_TIMEOUT", "soon")
  (problem,), text = problems(capsys)
  assert problem == "TIME_JAX_TIMEOUT='soon'; expected seconds, such as 900."
  assert "\n8 x cpu (cpu)\n" in text


def test_an_accelerator_that_jax_does_not_use(capsys, monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
  (problem,), _ = problems(capsys)
  assert "NVIDIA driver" in problem and "pip install 'jax[cuda13]'" in problem


def test_no_device(capsys, monkeypatch):
  def devices():
    raise RuntimeError("Unable to initialize backend 'tpu'.\nMore lines.")

  monkeypatch.setattr(doctor.jax, "devices", devices)
  (problem,), _ = problems(capsys)
  assert problem == ("JAX finds no device: Unable to initialize backend 'tpu'.")


def test_a_folder_that_cannot_be_written_to(capsys, monkeypatch, tmp_path):
  file = tmp_path / "file"
  file.write_text("x")
  monkeypatch.setenv("HF_HOME", f"{file}/models")
  found, _ = problems(capsys, f"--workdir={file}/run")
  advice = "cannot be written to: Not a directory; expected a folder with"
  assert len(found) == 2
  assert found[0].startswith(f"workdir: {file}/run {advice}")
  assert found[1].startswith(f"downloaded models: {file}/models {advice}")
  assert file.read_text() == "x"


def test_a_disk_that_is_almost_full(capsys, monkeypatch, tmp_path):
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(
    shutil, "disk_usage", lambda folder: usage(2**40, 2**40, 2**28)
  )
  found, _ = problems(capsys, f"--workdir={tmp_path}")
  assert f"workdir: only 0.25 GiB free in {tmp_path}." in found
