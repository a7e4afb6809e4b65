"""Memory and times of a measurement, and the file that they are written to."""

import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from time_jax.bench.common.host_memory import host_peak
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file


def peak_memory() -> dict[str, int | None]:
  """Returns the peak bytes of the fullest device and of this process.

  The device's are None where it does not report them, as a CPU.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  return {"device_peak": max(peaks, default=None), "host_peak": host_peak()}


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
  """Returns mean, percentiles, extremes and number of some measurements."""
  p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
  return {
    "mean": statistics.fmean(seconds),
    "p50": float(p50),
    "p90": float(p90),
    "p99": float(p99),
    "min": min(seconds),
    "max": max(seconds),
    "n": len(seconds),
  }


def check_writable(path: pathlib.Path | None, flag: str = "json") -> None:
  """Checks before measuring that a result could be written afterwards.

  Args:
    path: file to be written; None: none is.
    flag: name of the flag that gave it.

  Raises:
    UserError: the file cannot be written.
  """
  if path and (path.is_dir() or not os.access(path.parent, os.W_OK)):
    raise UserError(
      f"--{flag}={path} cannot be written to; expected a file in a folder that "
      "exists, with write permission."
    )


def write(
  path: pathlib.Path | None, schema: str, content: Mapping[str, Any]
) -> None:
  """Writes a result as JSON, with the name and version of its format.

  Args:
    path: the file; None: nothing is written.
    schema: name and version of the format, such as `time_jax.bench.step/2`.
    content: everything else.
  """
  if path:
    atomic_file.write_json(path, {"schema": schema, **content})
