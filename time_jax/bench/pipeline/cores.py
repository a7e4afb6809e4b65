"""Cores of the processor that a measuring process may use."""

import os
import pathlib
from collections.abc import Sequence

from time_jax.core.errors import UserError

_SYSTEM = pathlib.Path("/sys/devices/system/cpu")


def choose(count: int, system: pathlib.Path = _SYSTEM) -> list[int]:
  """Returns the numbers of some cores; two threads of one core come last.

  Args:
    count: how many cores.
    system: where Linux tells of them.

  Raises:
    UserError: there are fewer, or the system cannot bind a process to cores.
  """
  if not hasattr(os, "sched_getaffinity"):
    raise UserError(
      "--cores: this system cannot bind a process to some cores; expected "
      "Linux."
    )
  allowed = sorted(os.sched_getaffinity(0))
  if count > len(allowed):
    raise UserError(
      f"--cores={count}, but this process may use {len(allowed)}; expected at "
      "most as many."
    )
  return _spread(allowed, system)[:count]


def _spread(allowed: Sequence[int], system: pathlib.Path) -> list[int]:
  """Returns the first thread of every core, and then the other ones."""
  first: dict[str, int] = {}
  for core in allowed:
    path = system / f"cpu{core}" / "topology" / "thread_siblings_list"
    siblings = path.read_text() if path.exists() else str(core)
    first.setdefault(siblings, core)
  return [*first.values(), *sorted({*allowed} - {*first.values()})]
