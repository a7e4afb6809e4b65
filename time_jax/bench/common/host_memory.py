"""Main memory of this process, told without importing JAX."""

import pathlib
import resource
import sys

_STATUS = pathlib.Path("/proc/self/status")


def host_peak(status: pathlib.Path = _STATUS) -> int:
  """Returns the most bytes of main memory that this process has had.

  Linux starts the peak of `getrusage` with that of the process that started
  this one, so it is asked for the peak of this program alone.

  Args:
    status: what Linux tells of a process; without it, `getrusage` is asked.
  """
  lines = status.read_text().splitlines() if status.exists() else []
  for line in lines:
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
