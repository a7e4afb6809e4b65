"""A lease: one process at a time writes what a folder holds.

`NAME.lease` names the process that writes. Its holder touches it every few
seconds: only the file's time changes, so that a full disk does no harm, and a
file of somebody else is never overwritten. How long ago that was is the
difference of two times of one file system; the clocks of hosts may differ.
"""

import contextlib
import dataclasses
import errno
import glob
import json
import os
import pathlib
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from typing import Any

from time_jax.core.errors import (
  DAMAGED_JSON,
  RunError,
  UserError,
  refused,
  unwritable,
  without_secrets,
)

RUN = "run.lease"  # Of a workdir: checkpoints, metrics, scores.
RENEWED_EVERY = 5.0  # seconds
EXPIRES_AFTER = 60.0  # seconds without a sign, on another machine
_WAIT = "TIME_JAX_LEASE_WAIT"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclasses.dataclass(frozen=True)
class Holder:
  """A process that holds a lease.

  Attributes:
    host: name of its machine.
    boot: which start of that machine's system it belongs to.
    processes: the namespace that its id counts in: of a container, say.
    pid: its id.
    born: when it was started, as the system counts; ids are used again.
    command: what it runs.
    started: when it took the lease (Unix seconds of its own clock).
    token: of this lease alone.
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


# In place of one whose file is torn.
_UNKNOWN = Holder("an unknown host", "", "", 0, "", "unknown", 0.0, "")


def check() -> None:
  """Comes before each write: proves that this process still holds its leases.

  Raises:
    RunError: it stood still, was taken for dead, and replaced; or nobody can
      tell.
  """
  for held in tuple(_held):
    held.check()


@contextlib.contextmanager
def hold(place: pathlib.Path, what: str) -> Generator[None, None, None]:
  """Holds a lease, and renews it meanwhile; see `check`.

  A holder on this machine loses it by ending, however it does. One on another
  machine is believed to be at work for a minute after its last sign of life;
  with TIME_JAX_LEASE_WAIT=SECONDS it is given that long to show one.

  Args:
    place: file of the lease; its folder is there.
    what: is written, as the user calls it.

  Raises:
    UserError: somebody else holds it, or the folder cannot be written to.
  """
  me = _this_process()
  try:
    _take(place, me, what)
  except OSError as error:
    raise UserError(
      f"{what} cannot be written to: {unwritable(error)}."
    ) from error
  lease = _Lease(place, me, what)
  over = threading.Event()

  def renew() -> None:
    while not over.wait(RENEWED_EVERY):
      with contextlib.suppress(OSError):  # The next time it may work.
        lease.renew()

  thread = threading.Thread(target=renew, name="lease", daemon=True)
  thread.start()
  _held.append(lease)
  try:
    yield
  finally:
    _held.remove(lease)
    over.set()
    thread.join()
    lease.release()


def held_by_another(place: pathlib.Path) -> bool:
  """Whether another process, which may be alive, holds a lease.

  One on another machine counts as alive as long as its lease is there.

  Args:
    place: file of the lease; nobody holds it where there is none.
  """
  found = _read(place)
  if found is None:
    return False
  (holder, touched), me = found, _this_process()
  if _machine(holder) == _machine(me) and holder.pid == me.pid:
    return False
  return not _has_ended(holder, me, max(time.time() - touched, 0.0))


def machine() -> str:
  """Names the machine or container that this process runs in."""
  return " ".join(_machine(_this_process()))


class _Lease:
  """A lease that this process has taken."""

  def __init__(self, place: pathlib.Path, me: Holder, what: str) -> None:
    self._place, self._me, self._what = place, me, what
    self._lost = False
    self._lock = threading.Lock()

  def renew(self) -> None:
    """Says that its holder is alive, unless it is somebody else's."""
    with self._lock:
      self._lost = self._lost or not self._renewed()

  def _renewed(self) -> bool:
    try:
      with self._place.open("rb") as file:
        mine = _parse(file.read()).token == self._me.token
        if mine:
          os.utime(file.fileno())
        return mine
    except FileNotFoundError:  # Whoever removed it did not take it.
      return _put(self._place, self._me) is None

  def check(self) -> None:
    """RunError unless this process is known to hold it still."""
    try:
      self.renew()
    except OSError as error:
      raise RunError(
        f"cannot look at {self._place}, so that no more is written there: "
        f"{refused(error)}. Run the same command again."
      ) from error
    if self._lost:
      found = _read(self._place)
      by = found[0] if found else "another process"
      raise RunError(
        f"{self._what} was taken over by {by} while this process stood still; "
        "it ends here, and has written nothing there since."
      )

  def release(self) -> None:
    """Removes it, if it is still this one's."""
    with contextlib.suppress(OSError):
      found = _read(self._place)
      if found and found[0].token == self._me.token:
        self._place.unlink()


_held: list[_Lease] = []  # Those of this process.


def _take(place: pathlib.Path, me: Holder, what: str) -> None:
  """Puts a lease where there is none, or one whose holder is gone."""
  patience = _seconds_to_wait()
  seen = None
  while (now := _put(place, me)) is not None:
    found = _read(place)
    if found is None:
      if place.is_symlink():
        raise UserError(
          f"{place} is a link to nothing, so that {what} cannot be held; "
          "expected no such link: delete it."
        )
      continue  # It was given back.
    holder, touched = found
    age = max(now - touched, 0.0)
    dead = _has_ended(holder, me, age)
    if dead or (dead is None and age > EXPIRES_AFTER):
      if _remove(place, me, holder, what) and dead is None:
        _say(f"took over {what} from {holder}: no sign for {age:.0f} s")
      continue
    if dead is None and patience > 0 and seen in (None, found):
      if seen is None:
        _say(f"{what}: waiting for a sign of {holder}")
      seen, patience = found, patience - 1
      time.sleep(1)
      continue
    gone = "" if dead is False else " It counts as gone after a minute without."
    raise UserError(
      f"{what} is being written by {holder}, last sign {age:.0f} s ago; wait "
      f"for its end, end it, or use another folder.{gone}"
    )
  _clean(place)


def _has_ended(holder: Holder, me: Holder, age: float) -> bool | None:
  """Whether a process is gone; None: nobody can tell from here.

  Args:
    holder: the process.
    me: this one.
    age: seconds since its last sign.
  """
  if _machine(holder) == _machine(me):
    born = _born(holder.pid)
    # Where the system does not say when, its id has to do.
    known = born is not None and born and holder.born
    return born is None or bool(known and born != holder.born)
  # The machine was started anew since: by its own count, not by a clock.
  rebooted = holder.host == me.host and holder.boot != me.boot
  return True if rebooted and age > _uptime() else None


def _machine(holder: Holder) -> tuple[str, str, str]:
  return holder.host, holder.boot, holder.processes


def _put(place: pathlib.Path, me: Holder) -> float | None:
  """Puts a lease there unless there is one; then the file system's time.

  It is there whole or not at all, and one of several that try has it.
  """
  fresh = place.with_name(f"{place.name}.{me.token}")
  text = json.dumps(dataclasses.asdict(me), indent=1) + "\n"
  try:
    fresh.write_text(text, encoding="utf-8")
    now = fresh.stat().st_mtime
    try:
      os.link(fresh, place)
    except FileExistsError:  # NFS may say so of what it has just done.
      return None if _same_file(fresh, place) else now
    except OSError as error:
      if error.errno not in _NO_LINKS:
        raise
      try:
        with place.open("x", encoding="utf-8") as file:
          file.write(text)
      except FileExistsError:
        return now
    return None
  finally:
    fresh.unlink(missing_ok=True)


def _same_file(a: pathlib.Path, b: pathlib.Path) -> bool:
  with contextlib.suppress(OSError):
    return a.samefile(b)
  return False


def _remove(place: pathlib.Path, me: Holder, holder: Holder, what: str) -> bool:
  """Removes the lease of a holder that is gone; whether it was still there.

  Several may find it gone at the same time, and a slow one must not remove
  what a quick one has taken since. So who removes a lease holds another one,
  which is called by it.
  """
  removing = place.with_name(f"{place.name}.{holder.token or 'torn'}.old")
  _take(removing, me, what)
  try:
    found = _read(place)
    same = found is not None and found[0].token == holder.token
    if same:
      place.unlink()
    return same
  finally:
    removing.unlink(missing_ok=True)


def _clean(place: pathlib.Path) -> None:
  """Removes what a process left that was killed while it took the lease."""
  with contextlib.suppress(OSError):
    now = place.stat().st_mtime
    for path in place.parent.glob(f"{glob.escape(place.name)}.*"):
      if now - path.stat().st_mtime > EXPIRES_AFTER:
        path.unlink()


def _read(place: pathlib.Path) -> tuple[Holder, float] | None:
  """Who holds a lease, and its last sign; None: nobody."""
  try:
    with place.open("rb") as file:  # NFS asks its server when it opens.
      return _parse(file.read()), os.fstat(file.fileno()).st_mtime
  except FileNotFoundError:
    return None


def _parse(text: bytes) -> Holder:
  try:
    content: dict[str, Any] = json.loads(text)
    kinds = {f.name: type(getattr(_UNKNOWN, f.name)) for f in _FIELDS}
    return Holder(**{name: kind(content[name]) for name, kind in kinds.items()})
  except DAMAGED_JSON:
    return _UNKNOWN


_FIELDS = dataclasses.fields(Holder)


def _this_process() -> Holder:
  def of_system(read: Callable[[], str]) -> str:
    try:
      return read().strip()
    except OSError:  # Not Linux.
      return ""

  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
  pid = os.getpid()
  return Holder(
    host=socket.gethostname(),
    boot=of_system(boot.read_text),
    processes=of_system(lambda: os.readlink("/proc/self/ns/pid")),
    pid=pid,
    born=_born(pid) or "",
    command=without_secrets(shlex.join(sys.argv[1:]))[:300],
    started=time.time(),
    token=uuid.uuid4().hex,
  )


def _born(pid: int) -> str | None:
  """When a process of this machine was started; None: it has ended.

  Empty where the system does not tell.
  """
  try:
    os.kill(pid, 0)
  except PermissionError:
    pass  # It is there, and of another user.
  except (OSError, OverflowError):
    return None
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
  except OSError:
    return ""
  state, *fields = stat.rpartition(")")[2].split()
  return None if state in "ZX" else fields[18]


def _uptime() -> float:
  """Seconds since this machine was started."""
  try:
    return float(pathlib.Path("/proc/uptime").read_text().split()[0])
  except OSError:
    return float("inf")


def _seconds_to_wait() -> int:
  value = os.environ.get(_WAIT) or "0"
  if not value.isdecimal():
    raise UserError(f"{_WAIT}={value!r}; expected seconds, such as 90.")
  return int(value)


def _say(text: str) -> None:
  print(f"time_jax: {without_secrets(text)}", file=sys.stderr, flush=True)
