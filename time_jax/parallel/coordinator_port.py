"""How other processes reach process 0 without JAX, and what they exchange.

Process 0 listens at the coordinator's address. Each of the others connects and
says who it is, in a line of JSON; process 0 greets it at once with a line that
tells what it is doing itself, and sends a verdict when there is one:

  process 1 -> {"purpose": "run", "index": 1, "of": 4, "who": "host (pid 7)"}
  process 0 -> {"purpose": "run"}
  process 0 -> the verdict, as JSON
  process 1 -> heard

`rendezvous` makes a roll call of this, and `run_once` has process 0 run a
command. Anybody may connect to a port, so strangers are ignored.
"""

import contextlib
import dataclasses
import enum
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from time_jax.core.errors import DAMAGED_JSON, RestartableError
from time_jax.parallel.launcher_env import ProcessSpec

SAY_EVERY = 30.0  # seconds
RETRY_AFTER = 0.3  # seconds
_ANSWERING = 30.0  # seconds that either end has for its first line
_LONGEST = 1 << 14  # bytes of a line
_HEARD = b"heard\n"


class Outcome(enum.Enum):
  """Result of asking process 0, see `ask`."""

  ANSWERED = "it told its verdict"
  GONE = "it ended before it had a verdict"
  OTHER_PURPOSE = "it does something else"
  STRANGER = "another program answers at its address"
  SILENT = "nobody answers"


@dataclasses.dataclass(frozen=True)
class Hello:
  """The first line of a process that looks for process 0.

  Attributes:
    purpose: what the process takes part in; must be process 0's own.
    index: index of the process, from 1.
    of: number of processes that it was told of.
    who: its machine and process id, for messages.
  """

  purpose: str
  index: int
  of: int
  who: str


class Reminder:
  """Tells a process that waits when to print another line."""

  def __init__(self, first: float = SAY_EVERY) -> None:
    """Starts to count.

    Args:
      first: seconds until the first line; others follow every 30.
    """
    self._next = time.monotonic() + first

  def is_due(self) -> bool:
    """Returns True once for every line that is due."""
    due = time.monotonic() >= self._next
    if due:
      self._next = time.monotonic() + SAY_EVERY
    return due


class Listener:
  """Process 0's end: who has connected, and the verdict. A context manager.

  Attributes:
    changed: condition that guards the other attributes, and is notified of
      every change of them.
    present: the processes that are connected and wait for the verdict.
    heard: indices of those that acknowledged it.
    other_purposes: purposes of processes that came for something else.
  """

  def __init__(self, spec: ProcessSpec, purpose: str) -> None:
    """Starts to listen, and to greet whoever comes in threads.

    Args:
      spec: process 0.
      purpose: what process 0 does; only processes that come for the same count
        as present.

    Raises:
      RestartableError: something else listens at that port.
    """
    self.changed = threading.Condition()
    self.present: dict[socket.socket, Hello] = {}
    self.heard: set[int] = set()
    self.other_purposes: set[str] = set()
    self._purpose, self._verdict = purpose, b""
    self._closed = False
    try:
      self._listener = _listen(spec.port)
    except OSError as error:
      raise RestartableError(
        f"process 0 cannot listen at {spec.coordinator_address}: "
        f"{error.strerror}; another run may hold this port."
      ) from error
    self._thread = threading.Thread(target=self._accept, daemon=True)
    self._thread.start()

  def __enter__(self) -> "Listener":
    return self

  def __exit__(self, *error: object) -> None:
    self._closed = True
    with self._listener, contextlib.suppress(OSError):
      self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
    self._thread.join()
    with self.changed:
      for peer in self.present:
        with contextlib.suppress(OSError):
          peer.shutdown(socket.SHUT_RDWR)

  def tell(self, verdict: Any) -> None:
    """Sends the verdict to all that are present, and to all that come later.

    Args:
      verdict: JSON.
    """
    with self.changed:
      self._verdict = _as_line(verdict)
      for peer in self.present:
        self._send_verdict(peer)
      self.changed.notify_all()

  def _send_verdict(self, peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
      peer.sendall(self._verdict)

  def _accept(self) -> None:
    while not self._closed:
      try:
        peer, _ = self._listener.accept()
      except TimeoutError:
        continue
      except OSError:  # one that hung up, or too many open files: it may go by
        time.sleep(0.0 if self._closed else 0.2)
        continue
      threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

  def _serve(self, peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):  # A peer may vanish at any moment.
      self._attend(peer)

  def _attend(self, peer: socket.socket) -> None:
    """Talks to one that has connected; a stranger gets no word."""
    peer.settimeout(_ANSWERING)
    _keep_alive(peer)
    fields = _parse(_read_line(peer), Hello.__annotations__)
    if fields is None:
      return
    hello = Hello(*fields)
    peer.sendall(_as_line({"purpose": self._purpose}))
    with self.changed:
      if hello.purpose != self._purpose:
        self.other_purposes.add(hello.purpose)
        self.changed.notify_all()
        return
      # One that was killed may come again before its connection is closed.
      self.changed.wait_for(
        lambda: all(hello.index != h.index for h in self.present.values()), 1
      )
      self.present[peer] = hello
      if self._verdict:
        self._send_verdict(peer)
      self.changed.notify_all()
    peer.settimeout(None)
    acknowledgement = _read_line(peer)  # Nothing where it is gone.
    with self.changed:
      del self.present[peer]
      if acknowledgement == _HEARD:
        self.heard.add(hello.index)
      self.changed.notify_all()


def ask(
  spec: ProcessSpec, purpose: str, limit: float | None = None
) -> tuple[Outcome, Any]:
  """Connects to process 0, once, and waits for its verdict.

  Args:
    spec: this process.
    purpose: what the process takes part in.
    limit: seconds to wait for the verdict after the greeting; None: any.

  Returns:
    What happened, and with it: the verdict (ANSWERED), what process 0 does
    instead (OTHER_PURPOSE), or a reason for people to read.
  """
  host = spec.coordinator_address.rpartition(":")[0].strip("[]")
  who = f"{socket.gethostname()} (pid {os.getpid()})"
  hello = Hello(purpose, spec.process_id, spec.num_processes, who)
  try:
    with socket.create_connection((host, spec.port), 5) as peer:
      _keep_alive(peer)
      peer.sendall(_as_line(dataclasses.asdict(hello)))
      peer.settimeout(_ANSWERING)
      greeting = _read_line(peer)
      if not greeting:
        return Outcome.SILENT, "no answer"
      doing = _parse(greeting, {"purpose": str})
      if doing is None:
        return Outcome.STRANGER, "another program answers"
      if doing != [purpose]:
        return Outcome.OTHER_PURPOSE, doing[0]
      peer.settimeout(limit)
      verdict = _read_line(peer)
      if not verdict.endswith(b"\n"):
        return Outcome.GONE, "no answer"
      with contextlib.suppress(OSError):
        peer.sendall(_HEARD)
      return Outcome.ANSWERED, json.loads(verdict)
  except OSError as error:
    return Outcome.SILENT, error.strerror or str(error)


def _as_line(content: Any) -> bytes:
  return json.dumps(content).encode() + b"\n"


def _parse(line: bytes, kinds: Mapping[str, type]) -> list[Any] | None:
  """Returns the fields of a JSON object; None if a stranger wrote the line."""
  try:
    content = json.loads(line)
    return [kind(content[name]) for name, kind in kinds.items()]
  except DAMAGED_JSON:
    return None


def _listen(port: int) -> socket.socket:
  """Listens on all interfaces; `accept` returns at least once a second."""
  try:
    listener = socket.create_server(
      ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
    )
  except (OSError, ValueError):  # a host without IPv6
    listener = socket.create_server(("", port), backlog=1024)
  listener.settimeout(1)
  return listener


def _read_line(peer: socket.socket) -> bytes:
  """Reads up to a newline, or as much as came before the other end was gone."""
  line = b""
  with contextlib.suppress(OSError):
    while not line.endswith(b"\n") and len(line) < _LONGEST:
      byte = peer.recv(1)
      if not byte:
        break
      line += byte
  return line


def _keep_alive(peer: socket.socket) -> None:
  """Has the system notice within minutes that the other host is gone."""
  peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (("IDLE", 30), ("INTVL", 10), ("CNT", 6)):
    if option := getattr(socket, f"TCP_KEEP{name}", None):
      peer.setsockopt(socket.IPPROTO_TCP, option, value)
