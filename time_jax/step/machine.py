"""The machine and the software that a number comes from."""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from time_jax.parallel.launcher_env import ProcessSpec
from time_jax.step import peaks

_PACKAGES = (
  "time-jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "libtpu",
  "jax-cuda12-plugin",
  "jax-cuda13-plugin",
  "torch",
  "transformers",
)
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def environment(mesh_shape: dict[str, int], dtype: str) -> dict[str, Any]:
  """Returns the parts `date`, `hardware` and `software` of a report.

  Args:
    mesh_shape: size of each mesh axis, by its name.
    dtype: dtype of the matrix products, which decides on the peak.
  """
  devices = jax.devices()
  kind = devices[0].device_kind
  peak = peaks.PEAKS.get(kind)
  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "hardware": {
      "kind": processor() if devices[0].platform == "cpu" else kind,
      "n_devices": len(devices),
      "n_processes": jax.process_count(),
      "host_cores": os.cpu_count(),
      "mesh": mesh_shape,
      "peak_tflops_dense": getattr(peak, dtype) if peak else None,
      "peak_source": peak.source if peak else None,
    },
    "software": {
      "python": platform.python_version(),
      **versions(),
      "git": _commit(),
      "xla_flags": {
        name: os.environ[name] for name in _FLAGS if name in os.environ
      },
    },
  }


def introduce(process: ProcessSpec, mesh: jax.sharding.Mesh) -> str:
  """Returns the first line of a log: process, devices and versions.

  Args:
    process: this one among those of the run.
    mesh: mesh of the run.
  """
  devices = jax.devices()
  packages = {"Python": platform.python_version(), **versions()}
  shown = ", ".join(f"{name} {version}" for name, version in packages.items())
  return (
    f"process {process.process_id} of {process.num_processes} "
    f"({process.launcher}), coordinator {process.coordinator_address}, "
    f"{len(devices)} x {devices[0].device_kind}, mesh {dict(mesh.shape)}, "
    f"{shown}"
  )


# Seconds that a program took to compile at least, to be kept; an option of JAX.
_LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def use_compilation_cache() -> None:
  """Keeps compiled programs in JAX_COMPILATION_CACHE_DIR or ~/.cache.

  JAX keeps those alone that took a second. Each program of a small model takes
  a little less, there are several, and to read one takes a tenth of that.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = pathlib.Path("~/.cache/time_jax/compiled").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home))
  if _LEAST not in os.environ:
    jax.config.update(_LEAST.lower(), 0.1)


def processor() -> str:
  """Returns the name of the CPU, as far as the system tells."""
  path = pathlib.Path("/proc/cpuinfo")
  lines = path.read_text().splitlines() if path.exists() else []
  names = [line.partition(":")[2] for line in lines if "model name" in line]
  return names[0].strip() if names else platform.processor() or "CPU"


def versions() -> dict[str, str]:
  """Returns the versions of the installed packages that matter to speed."""
  installed = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      installed[name] = importlib.metadata.version(name)
  return installed


def _commit() -> str | None:
  """Returns the checkout's commit, marked if changed; None outside of one."""
  command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
  folder = pathlib.Path(__file__).parent
  try:
    described = subprocess.run(
      command, cwd=folder, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return described.stdout.strip()
