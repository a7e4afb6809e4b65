"""The command line: which command runs, and how it ends."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from absl import logging

from time_jax.cli.commands import COMMANDS
from time_jax.config import command_line
from time_jax.core.errors import Stopped, exit_status, without_secrets
from time_jax.parallel import run_once


def main(argv: Sequence[str]) -> int:
  """Runs one command.

  Args:
    argv: arguments behind the program's name.

  Returns:
    The exit code: 0 done, 2 bad input, 3 run failed, 42 stopped by a signal
    with everything saved, or for want of storage or the other processes.
    A bug is raised.
  """
  return _code_of(lambda: _run(argv))


def _code_of(work: Callable[[], int]) -> int:
  """Does something and says what was wrong; a bug is raised."""
  try:
    code = work()
    if sys.stdout:  # It is not there where the standard output is closed.
      sys.stdout.flush()  # That it cannot be written is told, too.
    return code
  except BaseException as error:
    if (found := exit_status(error)) is None:
      raise
    return _fail(*found)


def _run(argv: Sequence[str]) -> int:
  name, rest = command_line.split(argv, COMMANDS)
  if name is None:
    print(overview(*rest))
    return 0
  values = command_line.parse(name, COMMANDS[name], rest)
  if values is None:
    return 0
  # Orbax warns of what is meant to be so; our own words go another way.
  logging.set_verbosity(logging.ERROR)
  command = COMMANDS[name]
  with _stopped_by_sigterm():
    if not command.once:
      return command.run(values)
    # What is said and what is wrong come before the other processes are told.
    return run_once.run_once(
      lambda: _code_of(lambda: command.run(values)), argv
    )


@contextlib.contextmanager
def _stopped_by_sigterm() -> Generator[None, None, None]:
  """SIGTERM raises `Stopped`, until JAX takes it over (`distributed`)."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  last = 0.0

  def stop(number: int, frame: Any) -> None:
    # Launchers may pass one on that we got already: once is enough, unless
    # it was lost in a destructor.
    nonlocal last
    if not last or time.monotonic() > last + 10:
      last = time.monotonic()
      raise Stopped

  before = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  finally:
    if signal.getsignal(signal.SIGTERM) is stop:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _fail(code: int, message: str) -> int:
  print(f"time_jax: error: {without_secrets(message)}", file=sys.stderr)
  return code


def overview(group: str = "") -> str:
  """The list of commands, or of those of a group, such as `bench`."""
  lines = [
    "time_jax distils a big text encoder into a tiny monolingual one.",
    "",
    "usage: python -m time_jax COMMAND [--flag=value ...]",
    "",
    "commands:",
    *(
      f"  {name:<16} {c.summary}"
      for name, c in COMMANDS.items()
      if group in ("", name.split()[0])
    ),
    "",
    "python -m time_jax COMMAND --help shows a command's flags.",
  ]
  return "\n".join(lines)
