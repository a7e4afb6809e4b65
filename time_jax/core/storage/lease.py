"""A lease: one process at a time writes what a folder holds.

The file `NAME.lease` names the process that writes. Its holder touches the
file every few seconds: as only its time changes, a full disk does no harm, and
the file of another holder is never overwritten. The age of a lease is the
difference of two times of one file system, as the clocks of hosts may differ.
"""

import contextlib
import errno
import glob
import os
import threading
import time
from collections.abc import Generator

from time_jax.core.errors import (
  RunError,
  UserError,
  explain_refusal,
  explain_unwritable,
)
from time_jax.core.notes import say
from time_jax.core.storage import holder as holders
from time_jax.core.storage.holder import Holder
from time_jax.core.storage.paths import Path

RUN = "run.lease"  # of a workdir: its checkpoints, metrics and scores
RENEWED_EVERY = 5.0  # seconds
EXPIRES_AFTER = 60.0  # seconds without renewal, for a holder elsewhere
_WAIT = "TIME_JAX_LEASE_WAIT"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def check() -> None:
  """Proves that this process still holds its leases; call before each write.

  Raises:
    RunError: the process stood still, was taken for dead and replaced; or the
      file system does not tell.
  """
  for lease in tuple(_held):
    lease.check()


@contextlib.contextmanager
def hold(path: Path, name: str) -> Generator[None, None, None]:
  """Holds a lease and renews it in the background until the block ends.

  A holder on this machine loses its lease by ending in any way. One on another
  machine is believed to be at work for a minute after its last renewal; with
  TIME_JAX_LEASE_WAIT=SECONDS it is given that long to renew.

  Args:
    path: file of the lease, in a folder that exists.
    name: name of what is written under the lease, for messages.

  Raises:
    UserError: another process holds it, or the folder cannot be written to.
  """
  lease = _Lease(path, name)
  try:
    lease.acquire()
  except OSError as error:
    raise UserError(
      f"{name} cannot be written to: {explain_unwritable(error)}."
    ) from error
  over = threading.Event()

  def renew() -> None:
    while not over.wait(RENEWED_EVERY):
      with contextlib.suppress(OSError):  # The next renewal may work.
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


class _Lease:
  """A lease that this process takes, renews and gives back."""

  def __init__(self, path: Path, name: str) -> None:
    self._path, self._name = path, name
    self._me = holders.this_process()
    self._lost = False
    self._lock = threading.Lock()

  def acquire(self) -> None:
    """Takes the lease where there is none, or the holder is gone.

    Raises:
      UserError: its holder is or may be alive.
      OSError: the file system refuses.
    """
    patience, first_seen = _seconds_to_wait(), None
    while (now := self._create()) is not None:
      current = _read(self._path)
      if current is None:
        if self._path.is_symlink():
          raise UserError(
            f"{self._path} is a link to nothing, so that {self._name} cannot "
            "be held; expected no such link: delete it."
          )
        continue  # It was given back meanwhile.
      holder, renewed = current
      age = max(now - renewed, 0.0)
      ended = holder.has_ended(age)
      if ended or (ended is None and age > EXPIRES_AFTER):
        if self.remove_of(holder) and ended is None:
          say(f"took over {self._name} from {holder}: no sign for {age:.0f} s")
      elif ended is None and patience > 0 and first_seen in (None, current):
        if first_seen is None:
          say(f"{self._name}: waiting for a sign of {holder}")
        first_seen, patience = current, patience - 1
        time.sleep(1)
      else:
        raise UserError(
          f"{self._name} is being written by {holder}, last sign {age:.0f} s "
          "ago; wait for its end, end it, or use another folder. It counts as "
          "gone at its end; on another machine, a minute after its last sign."
        )
    self._clean()

  def _create(self) -> float | None:
    """Creates the file unless it exists.

    It appears whole or not at all, and one of several takers succeeds.

    Returns:
      None if it was created; else the time of the file system, now.
    """
    fresh = self._path.with_name(f"{self._path.name}.{self._me.token}")
    text = self._me.to_json()
    try:
      fresh.write_text(text, encoding="utf-8")
      now = fresh.stat().st_mtime
      try:
        os.link(fresh, self._path)
      except FileExistsError:  # NFS may say so of a link that it just made.
        return None if _is_same_file(fresh, self._path) else now
      except OSError as error:
        if error.errno not in _NO_LINKS:
          raise
        try:
          with self._path.open("x", encoding="utf-8") as file:
            file.write(text)
        except FileExistsError:
          return now
      return None
    finally:
      fresh.unlink(missing_ok=True)

  def remove_of(self, holder: Holder) -> bool:
    """Removes the lease of a holder that is gone.

    Several processes may find the holder gone at the same time, and a slow one
    must not remove what a quick one has taken since. So whoever removes a lease
    holds another lease meanwhile, which is named after it.

    Args:
      holder: the process that is gone.

    Returns:
      Whether the lease was still that holder's.
    """
    removal = self._path.with_name(
      f"{self._path.name}.{holder.token or 'torn'}.old"
    )
    _Lease(removal, self._name).acquire()
    try:
      current = _read(self._path)
      unchanged = current is not None and current[0].token == holder.token
      if unchanged:
        self._path.unlink()
      return unchanged
    finally:
      removal.unlink(missing_ok=True)

  def _clean(self) -> None:
    """Deletes what processes left that were killed while they took it."""
    with contextlib.suppress(OSError):
      now = self._path.stat().st_mtime
      for path in self._path.parent.glob(f"{glob.escape(self._path.name)}.*"):
        if now - path.stat().st_mtime > EXPIRES_AFTER:
          path.unlink()

  def renew(self) -> None:
    """Touches the file, unless it is another holder's."""
    with self._lock:
      try:
        with self._path.open("rb") as file:
          if holders.parse(file.read()).token == self._me.token:
            os.utime(file.fileno())
          else:
            self._lost = True
      except FileNotFoundError:  # Whoever deleted it did not take it.
        self._lost = self._lost or self._create() is not None

  def check(self) -> None:
    """Raises RunError unless this process is known to hold it still."""
    try:
      self.renew()
    except OSError as error:
      raise RunError(
        f"cannot look at {self._path}, so that no more is written there: "
        f"{explain_refusal(error)}. Run the same command again."
      ) from error
    if self._lost:
      current = _read(self._path)
      by = current[0] if current else "another process"
      raise RunError(
        f"{self._name} was taken over by {by} while this process stood still; "
        "it ends here, and has written nothing there since."
      )

  def release(self) -> None:
    """Deletes the file, if it is still this process's."""
    with contextlib.suppress(OSError):
      current = _read(self._path)
      if current and current[0].token == self._me.token:
        self._path.unlink()


_held: list[_Lease] = []  # those of this process


def _read(path: Path) -> tuple[Holder, float] | None:
  """Returns the holder of a lease and when it was renewed; None: nobody."""
  try:
    with path.open("rb") as file:  # NFS asks its server when a file is opened.
      return holders.parse(file.read()), os.fstat(file.fileno()).st_mtime
  except FileNotFoundError:
    return None


def _is_same_file(a: Path, b: Path) -> bool:
  with contextlib.suppress(OSError):
    return a.samefile(b)
  return False


def _seconds_to_wait() -> int:
  value = os.environ.get(_WAIT) or "0"
  if not value.isdecimal():
    raise UserError(f"{_WAIT}={value!r}; expected seconds, such as 90.")
  return int(value)
