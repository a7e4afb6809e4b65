"""What this machine offers a run, what is wrong with it, and what to do."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import jax

from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.core.storage.paths import prepare_workdir
from time_jax.parallel import processes

_PACKAGES = {
  "jax": (0, 10, 2),
  "flax": (0, 12),
  "optax": (0, 2, 5),
  "orbax-checkpoint": (0, 12),
  "grain": (0, 2, 16),
  "tensorflow-datasets": (4, 9, 9),
  "transformers": (4, 57),
}
_OPTIONAL = (
  "torch",
  "datasets",
  "libtpu",
  "jax-cuda12-plugin",
  "jax-cuda13-plugin",
)
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_SETTINGS = (
  "JAX_PLATFORMS",
  "JAX_ENABLE_PREEMPTION_SERVICE",
  "JAX_COMPILATION_CACHE_DIR",
  "XLA_PYTHON_CLIENT_MEM_FRACTION",
  "TIME_JAX_COORDINATOR",
  "TIME_JAX_NUM_PROCESSES",
  "TIME_JAX_PROCESS_ID",
  "HF_HOME",
)


def doctor(workdir: pathlib.Path | None) -> int:
  """Prints the findings.

  Args:
    workdir: a folder that a run would write to; checked if given.

  Returns:
    0, or EXIT_BAD_INPUT if something would stop a run.
  """
  problems: list[str] = []
  print(f"python {platform.python_version()} on {platform.platform()}")
  _print_versions(problems)
  _print_settings(problems)
  if not problems:  # With a rejected flag, asking for devices would abort.
    _print_devices(problems)
  try:
    processes.check_timeouts()
  except UserError as error:
    problems.append(str(error))
  _print_folders(workdir, problems)
  for problem in problems:
    print(f"PROBLEM: {problem}")
  print("Ready to run." if not problems else f"{len(problems)} problem(s).")
  return EXIT_BAD_INPUT if problems else 0


def _print_versions(problems: list[str]) -> None:
  if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    problems.append(
      f"Python {platform.python_version()}; expected 3.11, 3.12 or 3.13."
    )
  for name, least in _PACKAGES.items():
    version = _version(name)
    print(f"{name} {version or 'not installed'}")
    wanted = ".".join(map(str, least))
    if version is None or _numbers(version) < least:
      problems.append(
        f"{name} {version or 'is not installed'}; expected at least {wanted}: "
        f"pip install '{name}>={wanted}'."
      )
  for name in _OPTIONAL:
    print(f"{name} {_version(name) or 'not installed (optional)'}")


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _numbers(version: str) -> tuple[int, ...]:
  return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _print_settings(problems: list[str]) -> None:
  for name in (*_FLAGS, *_SETTINGS):
    if name in os.environ:
      print(f"{name}={os.environ[name]}")
  # A flag that XLA does not know aborts the process, so ask in a child.
  if any(os.environ.get(name) for name in _FLAGS):
    child = [sys.executable, "-c", "import jax; jax.numpy.zeros(1) + 1"]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    if done.returncode:
      lines = done.stderr.strip().splitlines() or ["no message"]
      problems.append(
        f"XLA rejects {' and '.join(n for n in _FLAGS if n in os.environ)}: "
        f"{lines[-1]}. Remove the flag it names."
      )


def _print_devices(problems: list[str]) -> None:
  try:
    devices = jax.devices()
  except RuntimeError as error:
    problems.append(f"JAX finds no device: {str(error).splitlines()[0]}")
    return
  print(f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
  stats = devices[0].memory_stats() or {}
  if "bytes_limit" in stats:
    print(f"memory per device: {stats['bytes_limit'] / 2**30:.1f} GiB")
  print(f"host: {os.cpu_count()} cores, {_host_memory() / 2**30:.1f} GiB")
  if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
    problems.append(
      "there is an NVIDIA driver, but JAX runs on the CPU; try: pip install "
      "'jax[cuda13]'."
    )


def _host_memory() -> int:
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _print_folders(workdir: pathlib.Path | None, problems: list[str]) -> None:
  cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
  folders = {
    "workdir": workdir,
    "temporary files": pathlib.Path(tempfile.gettempdir()),
    "downloaded models": pathlib.Path(cache).expanduser(),
  }
  for name, folder in folders.items():
    if folder is None:
      continue
    try:
      prepare_workdir(folder)
    except UserError as error:
      problems.append(f"{name}: {str(error).removeprefix('--workdir=')}")
      continue
    free = shutil.disk_usage(folder).free / 2**30
    print(f"{name}: {folder}, {free:.1f} GiB free")
    if free < 1:
      problems.append(f"{name}: only {free:.2f} GiB free in {folder}.")
