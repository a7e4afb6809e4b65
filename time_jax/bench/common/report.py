"""What every measurement says about itself, and how it is printed."""

import os
import pathlib
import resource
import statistics
import sys
from collections.abc import Sequence

import jax
import numpy as np

from time_jax.core.errors import UserError


def peak_memory() -> dict[str, int | None]:
  """Of the fullest device, where it says so, and of this process; bytes."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  return {"device_peak": max(peaks, default=None), "host_peak": host_peak()}


def host_peak() -> int:
  """The most bytes of main memory that this process has had."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
  """Mean, percentiles, extremes and number of some measurements."""
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


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Aligned columns, the first one to the left and the others to the right."""
  columns = zip(header, *rows, strict=True)
  widths = [max(map(len, column)) for column in columns]

  def line(cells: Sequence[str]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest])

  return "\n".join(line(row) for row in (header, *rows))


def check_writable(path: pathlib.Path, flag: str = "json") -> None:
  """Raises UserError if a report could not be written, before measuring.

  Args:
    path: where it is to go.
    flag: that named it.
  """
  if path.is_dir() or not os.access(path.parent, os.W_OK):
    raise UserError(
      f"--{flag}={path} cannot be written to; expected a file in a folder that "
      "exists, with write permission."
    )
