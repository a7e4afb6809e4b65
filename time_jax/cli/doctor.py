"""`doctor`: what this machine offers a run, what is wrong, and what to do."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import jax
from packaging.requirements import Requirement

from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.core.storage.paths import Path, prepare_workdir
from time_jax.parallel import processes

_OPTIONAL = (
  "torch",
  "datasets",
  "libtpu",
  "jax-cuda12-plugin",
  "jax-cuda13-plugin",
)
_XLA_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_SETTINGS = (
  *_XLA_FLAGS,
  "JAX_PLATFORMS",
  "JAX_ENABLE_PREEMPTION_SERVICE",
  "JAX_COMPILATION_CACHE_DIR",
  "XLA_PYTHON_CLIENT_MEM_FRACTION",
  "TIME_JAX_COORDINATOR",
  "TIME_JAX_NUM_PROCESSES",
  "TIME_JAX_PROCESS_ID",
  "HF_HOME",
)


def doctor(workdir: Path | None) -> int:
  """Prints what a run would find here, and each problem.

  Args:
    workdir: a folder that a run would write to, which is made and checked;
      None: no such folder.

  Returns:
    0, or EXIT_BAD_INPUT if something would stop a run.
  """
  print(f"python {platform.python_version()} on {platform.platform()}")
  problems = [*_check_versions(), *_check_settings()]
  if not problems:  # JAX aborts where XLA rejects a flag.
    problems += _check_devices()
  try:
    processes.check_timeouts()
  except UserError as error:
    problems.append(str(error))
  problems += _check_folders(workdir)
  for problem in problems:
    print(f"PROBLEM: {problem}")
  print(f"{len(problems)} problem(s)." if problems else "Ready to run.")
  return EXIT_BAD_INPUT if problems else 0


# Each check prints what it finds, and yields what is wrong.


def _check_versions() -> Iterator[str]:
  try:
    requirements = importlib.metadata.requires("time-jax") or []
  except importlib.metadata.PackageNotFoundError:
    requirements = []
    print("time-jax is not installed: what it requires is not checked")
  for needed in map(Requirement, requirements):
    if needed.marker and not needed.marker.evaluate({"extra": ""}):
      continue
    version = _version(needed.name)
    print(f"{needed.name} {version or 'not installed'}")
    if not version or not needed.specifier.contains(version, prereleases=True):
      yield (
        f"{needed.name} {version or 'is not installed'}; expected "
        f"{needed.specifier}: pip install '{needed.name}{needed.specifier}'."
      )
  for name in _OPTIONAL:
    print(f"{name} {_version(name) or 'not installed (optional)'}")


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _check_settings() -> Iterator[str]:
  for name in _SETTINGS:
    if name in os.environ:
      print(f"{name}={os.environ[name]}")
  # XLA aborts the process for a flag that it does not know, so ask a child.
  if given := [name for name in _XLA_FLAGS if os.environ.get(name)]:
    child = [sys.executable, "-c", "import jax; jax.numpy.zeros(1) + 1"]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    if done.returncode:
      lines = done.stderr.strip().splitlines() or ["no message"]
      yield (
        f"XLA rejects {' and '.join(given)}: {lines[-1]}. Remove the flag it "
        "names."
      )


def _check_devices() -> Iterator[str]:
  try:
    device, *others = jax.devices()
  except RuntimeError as error:
    yield f"JAX finds no device: {str(error).splitlines()[0]}"
    return
  print(f"{1 + len(others)} x {device.device_kind} ({device.platform})")
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    print(f"memory per device: {stats['bytes_limit'] / 2**30:.1f} GiB")
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  print(f"host: {os.cpu_count()} cores, {memory / 2**30:.1f} GiB")
  if device.platform == "cpu" and shutil.which("nvidia-smi"):
    yield (
      "there is an NVIDIA driver, but JAX runs on the CPU; try: pip install "
      "'jax[cuda13]'."
    )


def _check_folders(workdir: Path | None) -> Iterator[str]:
  cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
  folders = {
    "workdir": workdir,
    "temporary files": Path(tempfile.gettempdir()),
    "downloaded models": Path(cache).expanduser(),
  }
  for name, folder in folders.items():
    if folder is None:
      continue
    try:
      prepare_workdir(folder)
    except UserError as error:
      yield f"{name}: {str(error).removeprefix('--workdir=')}"
      continue
    free = shutil.disk_usage(folder).free / 2**30
    print(f"{name}: {folder}, {free:.1f} GiB free")
    if free < 1:
      yield f"{name}: only {free:.2f} GiB free in {folder}."
