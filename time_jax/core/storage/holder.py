"""The process that holds a lease, and whether it still runs."""

import contextlib
import dataclasses
import json
import os
import shlex
import socket
import sys
import time
import uuid
from typing import Any

from time_jax.core.errors import DAMAGED_JSON, without_secrets
from time_jax.core.storage.paths import Path


@dataclasses.dataclass(frozen=True)
class Holder:
  """A process that holds a lease.

  Attributes:
    host: name of its machine.
    boot: id of the machine's current start; another one after a reboot.
    processes: namespace in which process ids count, such as a container's.
    pid: process id.
    born: when the process was started, in the system's own unit; process ids
      are used again, so that both together name a process.
    command: arguments of the command that it runs.
    started: when it took the lease, in Unix seconds of its own clock.
    token: random id of this lease.
  """

  host: str
  boot: str
  processes: str
  pid: int
  born: str
  command: str
  started: float
  token: str

  def __str__(self) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
    return f"{self.command!r} on {self.host} (pid {self.pid}, since {when})"

  @property
  def machine(self) -> tuple[str, str, str]:
    """Names the machine or container: process ids can be compared inside."""
    return self.host, self.boot, self.processes

  def to_json(self) -> str:
    """Returns what a lease's file holds."""
    return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

  def has_ended(self, age: float) -> bool | None:
    """Returns whether the process is gone; None: unknown, on another machine.

    Args:
      age: seconds since its last sign of life.
    """
    me = this_process()
    if self.machine == me.machine:
      born = _born(self.pid)
      # Where the system tells no start times, the process id has to do.
      return born is None or bool(born and self.born and born != self.born)
    # The same machine was rebooted since, by its own count and not by a clock.
    rebooted = self.host == me.host and self.boot != me.boot
    return True if rebooted and age > _uptime() else None


# Stands for the holder of a lease whose file cannot be understood.
UNKNOWN = Holder("an unknown host", "", "", 0, "", "unknown", 0.0, "")


def parse(text: bytes) -> Holder:
  """Returns the holder that a lease's file names, or `UNKNOWN`."""
  try:
    content = json.loads(text)
    defaults: dict[str, Any] = dataclasses.asdict(UNKNOWN)
    fields = {name: type(x)(content[name]) for name, x in defaults.items()}
    return Holder(**fields)
  except DAMAGED_JSON:
    return UNKNOWN


def this_process() -> Holder:
  """Describes this process as the holder of a new lease."""
  pid = os.getpid()
  boot = namespace = ""  # Some sandboxes have only one of the two files.
  with contextlib.suppress(OSError):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  with contextlib.suppress(OSError):
    namespace = os.readlink("/proc/self/ns/pid")
  return Holder(
    host=socket.gethostname(),
    boot=boot,
    processes=namespace,
    pid=pid,
    born=_born(pid) or "",
    command=without_secrets(shlex.join(sys.argv[1:]))[:300],
    started=time.time(),
    token=uuid.uuid4().hex,
  )


def this_machine() -> str:
  """Names the machine or container that this process runs in."""
  return " ".join(this_process().machine)


def _born(pid: int) -> str | None:
  """Returns when a process of this machine was started.

  Returns:
    None if it has ended (also a zombie), empty if the system does not tell.
  """
  try:
    os.kill(pid, 0)
  except PermissionError:
    pass  # It runs, as another user.
  except (OSError, OverflowError):
    return None
  try:
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
  except OSError:
    return ""
  state, *fields = stat.rpartition(")")[2].split()
  return None if state in "ZX" else fields[18]


def _uptime() -> float:
  """Returns the seconds since this machine was started."""
  try:
    return float(Path("/proc/uptime").read_text().split()[0])
  except OSError:
    return float("inf")
