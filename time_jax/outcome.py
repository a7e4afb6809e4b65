"""Commands that one process does for all that a launcher started.

Such a command needs no JAX, so the processes do not join. Process 0 listens at
the coordinator's address, which no run uses meanwhile, and tells the others how
its command ended.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator

from time_jax import cluster, meeting
from time_jax.errors import (
  EXIT_BUG,
  EXIT_PREEMPTED,
  RestartableError,
  UserError,
  verdict,
)

_HELLO = b"time_jax: process 0 does it\n"
_SAY_EVERY = 30.0  # seconds
_ANSWERING = 30.0  # seconds in which process 0 says hello
_LATE = 30.0  # seconds that process 0 waits for others when it is done
_ALONE = " ".join(
  f"{name}={value}"
  for name, value in zip(cluster.VARIABLES, ("localhost:1", 1, 0), strict=True)
)


def by_first(work: Callable[[], int], patience: float = 900) -> int:
  """Has process 0 do a command; all of them end with its exit code.

  A process that no launcher started does it itself. So does one that finds
  something else at the coordinator's address, such as the run whose pod or
  node it was started on by hand.

  Args:
    work: the command, which gives its exit code.
    patience: seconds to wait until process 0 is there.

  Raises:
    RestartableError: process 0 does not come, or is gone.
  """
  place = _place()
  if place is None or place.processes == 1:
    return work()
  if place.index:
    code = _wait(place, patience)
    return work() if code is None else code
  if "TPU" in place.launcher:  # Those of a slice start together or not at all.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  with _telling(place) as tell:
    try:
      code = work()
    except BaseException as error:
      tell(_code_of(error))
      raise
    tell(code)
    return code


def _place() -> cluster.Place | None:
  """Where this process stands; None: alone."""
  try:
    return cluster.find(os.environ)
  except UserError:
    if any(os.environ.get(name) for name in cluster.VARIABLES):
      raise
    return None  # A shell inside of a job, which srun did not start.


def _code_of(error: BaseException) -> int:
  if isinstance(error, KeyboardInterrupt):
    return 130
  if not isinstance(error, Exception):
    return EXIT_PREEMPTED  # A signal.
  return (verdict(error) or (EXIT_BUG, ""))[0]


@contextlib.contextmanager
def _telling(
  place: cluster.Place,
) -> Generator[Callable[[int], None], None, None]:
  """Process 0: greets who comes; gives what tells them all the exit code."""
  try:
    listener = meeting.listen(place)
  except (
    RestartableError
  ):  # Another run is at work here; the others find it, too.
    yield lambda code: None
    return
  others: list[socket.socket] = []

  def greet() -> None:
    while len(others) < place.processes - 1:
      try:
        other, _ = listener.accept()
        other.settimeout(5)
        other.sendall(_HELLO)
      except TimeoutError:
        continue
      except OSError:
        return  # It is closed.
      others.append(other)

  greeter = threading.Thread(target=greet, daemon=True)
  greeter.start()

  def tell(code: int) -> None:
    greeter.join(_LATE)
    for other in others:
      with contextlib.suppress(OSError):
        other.sendall(f"{code}\n".encode())

  try:
    yield tell
  finally:
    for each in (listener, *others):
      each.close()


def _wait(place: cluster.Place, patience: float) -> int | None:
  """Another process: the exit code of process 0; None: it is not there."""
  host, _, port = place.coordinator.rpartition(":")
  deadline = time.monotonic() + patience
  say_at = time.monotonic() + _SAY_EVERY
  while True:
    try:
      first = socket.create_connection((host.strip("[]"), int(port)), 5)
      break
    except OSError as error:
      if time.monotonic() > deadline:
        raise RestartableError(
          f"process 0, which does this for all {place.processes} processes, "
          f"could not be reached at {place.coordinator} within "
          f"{patience:.0f} s ({error.strerror or error})."
        ) from error
    if time.monotonic() > say_at:
      say_at += _SAY_EVERY
      _say(
        f"process {place.index} of {place.processes} ({place.launcher}) waits "
        f"for process 0 at {place.coordinator}; {_ALONE} does it here."
      )
    time.sleep(0.3)
  with first:
    _keep_alive(first)
    first.settimeout(_ANSWERING)
    if _read_line(first) != _HELLO:
      return None
    first.settimeout(None)
    answer = _read_line(first).strip()
  if not answer.isdigit():
    raise RestartableError(
      "process 0 was gone before its command ended; its log says more."
    )
  code = int(answer)
  if code:
    _say(f"process 0 ended with exit code {code}; its log says why.")
  return code


def _keep_alive(peer: socket.socket) -> None:
  """Notices within minutes that the other host is gone."""
  peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (("IDLE", 30), ("INTVL", 10), ("CNT", 6)):
    if option := getattr(socket, f"TCP_KEEP{name}", None):
      peer.setsockopt(socket.IPPROTO_TCP, option, value)


def _read_line(peer: socket.socket) -> bytes:
  """What the other end says; as much as it said where it is gone."""
  text = b""
  with contextlib.suppress(OSError):
    while not text.endswith(b"\n") and len(text) < 100:
      chunk = peer.recv(1)
      if not chunk:
        break
      text += chunk
  return text


def _say(text: str) -> None:
  print(f"time_jax: {text}", file=sys.stderr, flush=True)
