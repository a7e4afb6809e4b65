"""A roll call before JAX connects the processes of a run.

JAX waits for all of them, too, but aborts when one never comes, without a word
about which. So process 0 first listens at the coordinator's address itself,
counts who reports, and says who is missing; then it leaves the port to JAX.
"""

import contextlib
import json
import os
import socket
import sys
import time

from time_jax.core.errors import DAMAGED_JSON, RestartableError, UserError
from time_jax.parallel.launcher_env import Place

_SAY_EVERY = 30.0  # seconds
_GO, _REFUSED, _FAILED = "go", "refused: ", "failed: "


def meet(place: Place, timeout: float, refusal: str = "") -> None:
  """Returns when all processes of the run have called it.

  Args:
    place: of this process.
    timeout: seconds to wait.
    refusal: of process 0: why the run cannot be; all the others hear it.

  Raises:
    RestartableError: some did not come, or process 0 cannot be reached.
    UserError: two processes have one index, or do not agree on their number;
      or process 0 refuses.
  """
  if place.processes == 1:
    return
  deadline = time.monotonic() + timeout
  if place.index:
    _report(place, timeout, deadline)
  else:
    word = _REFUSED + refusal if refusal else _GO
    _call(place, timeout, deadline, word)


def _call(place: Place, timeout: float, deadline: float, word: str) -> None:
  """Process 0: waits for the others, then tells each to go on."""
  present: dict[int, tuple[socket.socket, str]] = {}
  say_at = time.monotonic() + _SAY_EVERY
  with listen(place) as listener, contextlib.ExitStack() as stack:
    while True:
      for index in [i for i, (peer, _) in present.items() if not _alive(peer)]:
        del present[index]  # It was killed; it may come again.
      missing = [i for i in range(1, place.processes) if i not in present]
      if not missing:
        break
      now = time.monotonic()
      if now > deadline:
        error = RestartableError(_missing_words(place, missing, timeout))
        _answer(present, _FAILED + str(error))
        raise error
      if now > say_at:
        say_at += _SAY_EVERY
        left = deadline - now
        _say(f"waiting for processes {_some(missing)}, {left:.0f} s more")
      try:
        peer, _ = listener.accept()
      except TimeoutError:
        continue
      stack.enter_context(peer)
      try:
        _admit(peer, place, present)
      except UserError as error:
        _answer(present, _FAILED + str(error))
        raise
    _answer(present, word)
    for peer, _ in present.values():  # They hang up first: the port is free.
      with contextlib.suppress(OSError):
        peer.recv(1)


def is_report(said: bytes) -> bool:
  """Whether this is what a process of a run says when it looks for process 0.

  Args:
    said: a line, as it came from a port.
  """
  try:
    return {"index", "of", "who"} <= set(json.loads(said))
  except DAMAGED_JSON:
    return False


def listen(place: Place) -> socket.socket:
  """What process 0 is reached by; its `accept` waits for 0.2 s.

  Raises:
    RestartableError: something else listens at that port.
  """
  port = int(place.coordinator.rpartition(":")[2])
  try:
    try:
      listener = socket.create_server(
        ("", port), family=socket.AF_INET6, dualstack_ipv6=True
      )
    except (OSError, ValueError):  # A host without IPv6.
      listener = socket.create_server(("", port))
  except OSError as error:
    raise RestartableError(
      f"process 0 cannot listen at {place.coordinator}: {error.strerror}; "
      "another run may hold this port."
    ) from error
  listener.settimeout(0.2)
  return listener


def _admit(
  peer: socket.socket, place: Place, present: dict[int, tuple]
) -> None:
  """Notes who has come; strangers are ignored."""
  peer.settimeout(5)
  try:
    said = json.loads(_read_line(peer))
    index, processes, who = said["index"], said["of"], str(said["who"])
  except (OSError, *DAMAGED_JSON):
    return
  if processes != place.processes or index not in range(1, place.processes):
    raise UserError(
      f"{who} calls itself process {index} of {processes}, but process 0 was "
      f"told that there are {place.processes}; expected the same number, and "
      "indices from 0, for all."
    )
  if index in present and _alive(present[index][0]):
    raise UserError(
      f"{present[index][1]} and {who} both call themselves process {index}; "
      "expected an index of its own for each."
    )
  present[index] = (peer, who)


def _alive(peer: socket.socket) -> bool:
  """Whether the other end is still there, which says nothing meanwhile."""
  peer.setblocking(False)
  try:
    return bool(peer.recv(1))
  except BlockingIOError:
    return True
  except OSError:
    return False
  finally:
    peer.settimeout(5)


def _answer(present: dict[int, tuple], text: str) -> None:
  for peer, _ in present.values():
    with contextlib.suppress(OSError):
      peer.sendall(text.encode() + b"\n")


def _report(place: Place, timeout: float, deadline: float) -> None:
  """Another process: reports, and waits for the word to go on."""
  host, _, port = place.coordinator.rpartition(":")
  me = {"index": place.index, "of": place.processes, "who": _who()}
  say_at = time.monotonic() + _SAY_EVERY
  problem = "no answer"
  while time.monotonic() < deadline:
    if time.monotonic() > say_at:
      say_at += _SAY_EVERY
      _say(f"process 0 at {place.coordinator} is not there yet: {problem}")
    try:
      with socket.create_connection((host.strip("[]"), int(port)), 5) as peer:
        peer.sendall(json.dumps(me).encode() + b"\n")
        # It ends by itself at its own deadline, which may be a little later.
        peer.settimeout(max(deadline - time.monotonic(), 1) + 30)
        answer = _read_line(peer)
    except OSError as error:
      problem = error.strerror or str(error)
      time.sleep(0.3)
      continue
    if answer == _GO:
      return
    if answer.startswith(_REFUSED):
      raise UserError(answer.removeprefix(_REFUSED))
    if answer.startswith(_FAILED):
      raise RestartableError(answer.removeprefix(_FAILED))
    # Process 0 ended, and may come again; or another program answers.
    problem = "another program answers" if answer else "no answer"
    time.sleep(0.3)
  raise RestartableError(
    f"process {place.index} of {place.processes} could not reach process 0 at "
    f"{place.coordinator} within {timeout:.0f} s ({problem}); is it running, "
    "and may hosts reach each other at that port?"
  )


def _read_line(peer: socket.socket) -> str:
  text = b""
  while not text.endswith(b"\n") and len(text) < 4096:
    chunk = peer.recv(1024)
    if not chunk:
      return ""
    text += chunk
  return text.decode("utf-8", "replace").strip()


def _missing_words(place: Place, missing: list[int], timeout: float) -> str:
  return (
    f"processes {_some(missing)} of {place.processes} did not report to "
    f"{place.coordinator} within {timeout:.0f} s ({place.launcher}); start the "
    "command on all hosts, and look into the logs of those."
  )


def _some(indices: list[int]) -> str:
  more = f" and {len(indices) - 12} more" if len(indices) > 12 else ""
  return ", ".join(map(str, indices[:12])) + more


def _who() -> str:
  return f"{socket.gethostname()} (pid {os.getpid()})"


def _say(text: str) -> None:
  print(f"time_jax: {text}", file=sys.stderr, flush=True)
