"""Commands that one process does for all that a launcher started.

Such a command writes a folder that all of them see, and needs no JAX of several
hosts, so the processes do not join. Process 0 listens at the coordinator's
address, which no run uses meanwhile, and tells the others how its command
ended. It answers only those that ask as this module does: anybody may connect
to a port.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence

from time_jax.core.errors import (
  EXIT_BUG,
  EXIT_INTERRUPTED,
  EXIT_PIPE,
  EXIT_PREEMPTED,
  RestartableError,
  Stopped,
  UserError,
)
from time_jax.parallel import launcher_env, rendezvous

_HELLO = b"time_jax: process 0 does it\n"
_OTHER = b"time_jax: process 0 does another command\n"
_HEARD = b"time_jax: heard\n"
_QUESTION = re.compile(rb"time_jax: process (\d+) (of \d+ asks about \w+)\n")
_FIRST_SAID = 3.0  # seconds of waiting without a word
_SAY_EVERY = 30.0  # seconds
_ANSWERING = 30.0  # seconds that either end has to answer
_FAILED = 30.0  # seconds that process 0 waits for late ones after a bug
_STOPPED = 5.0  # seconds that it waits for them when it was told to stop
_ALONE = " ".join(
  f"{name}={value}"
  for name, value in zip(
    launcher_env.VARIABLES, ("localhost:1", 1, 0), strict=True
  )
)


def by_first(
  work: Callable[[], int],
  words: Sequence[str] = (),
  patience: float | None = None,
) -> int:
  """Has process 0 do a command; all of them end with its exit code.

  A process that no launcher started does it itself. So does one that finds
  something else at the coordinator's address, such as the run whose pod or
  node it was started on by hand.

  Args:
    work: the command, which says what is wrong and gives its exit code.
    words: what was typed; it must be the same for all.
    patience: seconds that process 0 and the others wait for each other;
      TIME_JAX_TIMEOUT where nothing is given.

  Raises:
    RestartableError: process 0 does not come, or is gone.
    UserError: process 0 does another command.
  """
  place = _place()
  if place is None or place.processes == 1:
    return work()
  if patience is None:
    patience = launcher_env.seconds("TIME_JAX_TIMEOUT")
  question = _question(place.processes, words)
  if place.index:
    code = _ask(place, question, patience)
    return work() if code is None else code
  if "TPU" in place.launcher:  # Those of a slice start together or not at all.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  with _answering(place, question) as first:
    try:
      code = work()
    except BaseException as error:
      broken = isinstance(error, BrokenPipeError)
      first.tell(EXIT_PIPE if broken else EXIT_BUG, min(patience, _FAILED))
      raise
    first.tell(code, patience)
    return code


def _place() -> launcher_env.Place | None:
  """Where this process stands; None: alone."""
  try:
    return launcher_env.find(os.environ)
  except UserError:
    if any(os.environ.get(name) for name in launcher_env.VARIABLES):
      raise
    return None  # A shell inside of a job, which srun did not start.


def _question(processes: int, words: Sequence[str]) -> str:
  """What all of them ask about a command; a hash, as it may hold secrets."""
  about = hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:16]
  return f"of {processes} asks about {about}"


class _First:
  """Process 0: what it tells the others."""

  def __init__(self, place: launcher_env.Place, question: str) -> None:
    self._place, self._question = place, question.encode()
    self._changed = threading.Condition()
    self._code: int | None = None
    self._asking, self._heard = 0, set[int]()
    self._port_is_wanted = False

  def answer(self, peer: socket.socket) -> None:
    """Answers whoever has connected; strangers get no word."""
    with peer, contextlib.suppress(OSError):
      peer.settimeout(_ANSWERING)
      said = _read_line(peer)
      found = _QUESTION.fullmatch(said)
      index = int(found[1]) if found else 0
      if found is None or not 0 < index < self._place.processes:
        self._note_run(said)
      elif found[2] != self._question:
        peer.sendall(_OTHER)
      else:
        with self._one_more():
          self._answer(peer, index)

  def _answer(self, peer: socket.socket, index: int) -> None:
    peer.sendall(_HELLO)
    with self._changed:
      self._changed.wait_for(lambda: self._code is not None)
    peer.sendall(f"{self._code}\n".encode())
    # One that was killed meanwhile does not say so, and may come again.
    if _read_line(peer) == _HEARD:
      self._heard.add(index)

  @contextlib.contextmanager
  def _one_more(self) -> Generator[None, None, None]:
    with self._changed:
      self._asking += 1
    try:
      yield
    finally:
      with self._changed:
        self._asking -= 1
        self._changed.notify_all()

  def _note_run(self, said: bytes) -> None:
    """A run that starts needs the port more than those who may never come."""
    if rendezvous.is_report(said):
      with self._changed:
        self._port_is_wanted = True
        self._changed.notify_all()

  def tell(self, code: int, patience: float) -> None:
    """Tells the others, the late ones too; a signal ends the wait for them."""
    with self._changed:
      self._code = code
      self._changed.notify_all()
      if code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
        patience = min(patience, _STOPPED)
      with contextlib.suppress(KeyboardInterrupt, Stopped):
        self._wait_for_all(code, patience)

  def _wait_for_all(self, code: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    pause = _FIRST_SAID
    while (left := deadline - time.monotonic()) > 0:
      if self._changed.wait_for(self._is_over, min(pause, left)):
        return
      pause = _SAY_EVERY
      others = range(1, self._place.processes)
      missing = ", ".join(str(i) for i in others if i not in self._heard)
      _say(
        f"the command is over (exit code {code}); waiting up to {left:.0f} s "
        f"for processes {missing} of {self._place.processes} "
        f"({self._place.launcher}), to tell them. Where they were not started, "
        f"end this by Ctrl-C, and type {_ALONE} before such a command."
      )

  def _is_over(self) -> bool:
    all_know = len(self._heard) == self._place.processes - 1
    return all_know or (self._port_is_wanted and not self._asking)


class _Unreachable(_First):
  """Process 0 where a run holds the port: the others find that, too."""

  def tell(self, code: int, patience: float) -> None:
    """Tells nobody."""


@contextlib.contextmanager
def _answering(
  place: launcher_env.Place, question: str
) -> Generator[_First, None, None]:
  """Process 0: answers who comes, each in a thread, while it is at work."""
  try:
    listener = rendezvous.listen(place)
  except RestartableError:
    yield _Unreachable(place, question)
    return
  first, over = _First(place, question), threading.Event()

  def accept() -> None:
    while not over.is_set():
      try:
        peer, _ = listener.accept()
      except TimeoutError:
        continue
      except OSError:  # Of one that hung up, or too many files: it may go by.
        over.wait(0.2)
        continue
      threading.Thread(target=first.answer, args=(peer,), daemon=True).start()

  greeter = threading.Thread(target=accept, daemon=True)
  greeter.start()
  try:
    yield first
  finally:
    over.set()
    greeter.join()
    listener.close()


def _ask(
  place: launcher_env.Place, question: str, patience: float
) -> int | None:
  """Another process: the exit code of process 0; None: a run is there."""
  host, _, port = place.coordinator.rpartition(":")
  address = (host.strip("[]"), int(port))
  asked = f"time_jax: process {place.index} {question}\n".encode()
  deadline = time.monotonic() + patience
  say_at = time.monotonic() + _FIRST_SAID
  while True:
    try:
      with socket.create_connection(address, 5) as first:
        _keep_alive(first)
        first.sendall(asked)
        first.settimeout(_ANSWERING)
        word = _read_line(first)
        if word == _HELLO:
          return _hear(first)
      if word == _OTHER:
        raise UserError(
          f"process 0 at {place.coordinator} does another command; expected "
          f"the same for all processes: type {_ALONE} before this one to do it "
          "here."
        )
      if word:
        return None
      problem = "no answer"
    except OSError as error:
      problem = error.strerror or str(error)
    if time.monotonic() > deadline:
      raise RestartableError(
        f"process 0, which does this for all {place.processes} processes, "
        f"could not be reached at {place.coordinator} within "
        f"{patience:.0f} s ({problem})."
      )
    if time.monotonic() > say_at:
      say_at = time.monotonic() + _SAY_EVERY
      _say(
        f"process {place.index} of {place.processes} ({place.launcher}) waits "
        f"for process 0 at {place.coordinator}, which does this for all "
        f"({problem}). Where it was not started, type {_ALONE} before the "
        "command to do it here."
      )
    time.sleep(0.3)


def _hear(first: socket.socket) -> int:
  """The exit code that process 0 tells when its command has ended."""
  first.settimeout(None)
  answer = _read_line(first).strip()
  if not answer.isdigit():
    raise RestartableError(
      "process 0 was gone before its command ended; its log says more."
    )
  with contextlib.suppress(OSError):
    first.sendall(_HEARD)
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
    while not text.endswith(b"\n") and len(text) < 1000:
      chunk = peer.recv(1)
      if not chunk:
        break
      text += chunk
  return text


def _say(text: str) -> None:
  print(f"time_jax: {text}", file=sys.stderr, flush=True)
