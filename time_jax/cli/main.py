"""The command line: which command runs, and how it ends."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from absl import logging

import time_jax
from time_jax.cli import help_text
from time_jax.cli.commands import COMMANDS
from time_jax.config import command_line
from time_jax.core.errors import Stopped, exit_status, without_secrets

_HELP = ("-h", "--help", "-help")
_SIGNALS = {Stopped: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
_SOON = 0.1  # seconds


def main(argv: Sequence[str]) -> int:
  """Runs one command.

  Args:
    argv: the arguments that follow the program's name.

  Returns:
    The exit code: 0 done, 2 bad input, 3 run failed, 42 stopped by a signal
    with everything saved, or for want of storage or the other processes.
    A bug is raised.
  """
  return _exit_code(lambda: _run(argv))


def _exit_code(work: Callable[[], int]) -> int:
  """Calls a function and reports its error, unless that is a bug."""
  try:
    code = work()
    if sys.stdout:  # It is None where the standard output is closed.
      sys.stdout.flush()  # An error of writing is reported, too.
    return code
  except BaseException as error:
    if (reported := exit_status(error)) is None:
      raise
    code, message = reported
    print(f"time_jax: error: {without_secrets(message)}", file=sys.stderr)
    return code


def _run(argv: Sequence[str]) -> int:
  if [*argv] == ["--version"]:
    print(f"time-jax {time_jax.__version__}")
    return 0
  if shown := _help(argv):
    print(shown)
    return 0
  command_class, words = command_line.split(argv, COMMANDS)
  command = command_line.parse(command_class, words)
  # Orbax warns of what is meant to be so; our own messages are printed.
  logging.set_verbosity(logging.ERROR)
  with _stopped_by_sigterm():
    if not command.once:
      return command.run()
    from time_jax.parallel import run_once

    # The error is reported before the other processes are told of it.
    return run_once.run_once(lambda: _exit_code(command.run), argv)


def _help(argv: Sequence[str]) -> str:
  """Returns the help that is asked for; empty: none is."""
  words = [word for word in argv if word not in _HELP]
  if words[:1] == ["help"]:
    words = words[1:]
  elif argv and len(words) == len(argv):
    return ""
  groups = {name.split()[0] for name in COMMANDS} - {*COMMANDS}
  if not words or (len(words) == 1 and words[0] in groups):
    return help_text.overview(COMMANDS, "".join(words))
  command, words = command_line.split(words, COMMANDS)
  values, _ = command_line.parse_values(command, words)
  return help_text.of_command(command, values.get("config"))


@contextlib.contextmanager
def _stopped_by_sigterm() -> Generator[None, None, None]:
  """Lets SIGTERM raise `Stopped`, until JAX handles it (`processes.join`).

  Python drops what is raised in a destructor or in a callback of its garbage
  collector, and JAX has one. Such a signal is sent again, Ctrl-C as well.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  own, last, again = threading.get_ident(), 0.0, threading.Timer(0, print)

  def stop(number: int, frame: Any) -> None:
    # Launchers may pass on a signal that arrived already: once is enough,
    # unless the first was lost and nobody told `dropped` of it.
    nonlocal last
    if not last or time.monotonic() > last + 10:
      last = time.monotonic()
      raise Stopped

  def dropped(unraisable: Any) -> None:
    nonlocal last, again
    number = _SIGNALS.get(unraisable.exc_type)
    if number is None:
      return hook(unraisable)
    last = 0.0
    # Not at once, because it would be dropped here, too.
    again = threading.Timer(_SOON, signal.pthread_kill, (own, number))
    again.start()

  before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
  sys.unraisablehook = dropped
  try:
    yield
  finally:
    again.cancel()
    sys.unraisablehook = hook
    if signal.getsignal(signal.SIGTERM) is stop:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
