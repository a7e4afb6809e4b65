"""The command line: how its arguments, help and errors read."""

import contextlib
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

from absl import flags, logging

from time_jax.commands import COMMANDS, Command
from time_jax.config import flatten, missing_fields
from time_jax.errors import (
  EXIT_PREEMPTED,
  UserError,
  verdict,
  without_secrets,
)

_HELP = ("-h", "--help", "-help")


class _Stopped(BaseException):
  """SIGTERM: no error, so that nothing takes it for one on its way up."""


def main(argv: Sequence[str]) -> int:
  """Runs one command.

  Args:
    argv: arguments behind the program's name.

  Returns:
    The exit code: 0 done, 2 bad input, 3 run failed, 42 stopped by a signal
    with everything saved, or for want of storage or the other processes.
    A bug is raised.
  """
  try:
    name, rest = _split_command(list(argv))
    if name is None:
      print(overview(*rest))
      return 0
    values = _parse(name, rest)
    if values is None:
      return 0
    # Orbax warns of what is meant to be so; our own words go another way.
    logging.set_verbosity(logging.ERROR)
    with _stopped_by_sigterm():
      return COMMANDS[name].run(values)
  except Exception as error:
    if (found := verdict(error)) is None:
      raise
    return _fail(*found)
  except _Stopped:
    reason = "stopped by a signal; what is finished is kept, run it again."
    return _fail(EXIT_PREEMPTED, reason)
  except KeyboardInterrupt:
    return _fail(130, "interrupted; run the same command again to continue.")


@contextlib.contextmanager
def _stopped_by_sigterm() -> Generator[None, None, None]:
  """SIGTERM raises `_Stopped`, until JAX takes it over (`distributed`)."""
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
      raise _Stopped

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


def _split_command(argv: list[str]) -> tuple[str | None, list[str]]:
  """Name and the rest; no name where help is asked for, perhaps of a group."""
  if not argv or argv[0] in ("help", *_HELP):
    return None, []
  for words in (2, 1):
    name = " ".join(argv[:words])
    if name in COMMANDS:
      return name, argv[words:]
  groups = {name.split()[0] for name in COMMANDS if " " in name}
  if argv[0] in groups and any(word in _HELP for word in argv):
    return None, argv[:1]
  shown = " ".join(argv[:2]) if argv[0] in groups else argv[0]
  raise UserError(f"unknown command {shown!r}; known: {', '.join(COMMANDS)}.")


def _parse(name: str, rest: list[str]) -> Any:
  """Flag values; None if only help was asked for."""
  command = COMMANDS[name]
  wants_help = any(word in _HELP for word in rest)
  rest = [word for word in rest if word not in _HELP]
  values = flags.FlagValues()
  values.set_gnu_getopt()  # Flags may stand behind the argument, too.
  for define in command.define:
    define(values, rest)
  try:
    left = values(["time_jax", *rest])[1:]
    if command.argument and left:
      parser = values[command.argument].parser
      several = isinstance(parser, flags.ListParser)
      words = left[:] if several else left[0]
      values[command.argument].parse(words)
      left = [] if several else left[1:]
  except flags.UnrecognizedFlagError as error:
    if "config" in values and error.flagname.startswith("config."):
      raise UserError(f"--{error.flagname} needs --config as well.") from error
    raise UserError(f"{_line(error, 0)} {_known_flags(values)}") from error
  except flags.Error as error:
    # A recipe's own error arrives as a traceback in a text.
    reason = _line(error, -1).removeprefix("time_jax.errors.UserError: ")
    raise UserError(reason) from error
  except Exception as error:  # A recipe is a program, which may raise it.
    raise UserError(_recipe_problem(error, rest, command)) from error
  _check_recipe(values, command)
  if wants_help:
    print(_help(name, values))
    return None
  if left:
    raise UserError(f"unexpected argument {left[0]!r}. {_known_flags(values)}")
  missing = [
    _spelled(command, flag)
    for flag in command.required
    if not values[flag].value
  ]
  if missing:
    raise UserError(
      f"{name} needs {' and '.join(missing)}; for example: python -m time_jax "
      f"{command.example}"
    )
  return values


def _spelled(command: Command, flag: str) -> str:
  return flag.upper() if flag == command.argument else f"--{flag}"


def _line(error: Exception, which: int) -> str:
  text = str(error).strip().splitlines() or [type(error).__name__]
  return text[which].strip().rstrip(".") + "."


def _check_recipe(values: flags.FlagValues, command: Command) -> None:
  if "config" not in values or not values["config"].present:
    return
  recipe: Any = values["config"].value
  try:
    missing = missing_fields(recipe.to_dict(), command.recipe())
  except AttributeError as error:
    kind = type(recipe).__name__
    raise UserError(
      f"the recipe of --config gives {kind}, expected a changed "
      f"{_named(command)}."
    ) from error
  except OSError as error:
    recipes = ", ".join(sorted(map(str, pathlib.Path("configs").glob("*.py"))))
    raise UserError(
      f"the recipe of --config cannot be read: {_line(error, -1)} Here are: "
      f"{recipes or 'none; run from the repository, or give a full path'}."
    ) from error
  if missing:
    raise UserError(
      f"the recipe of --config lacks fields such as {', '.join(missing[:3])}; "
      f"expected a changed {_named(command)}."
    )


def _named(command: Command) -> str:
  return f"{command.recipe.__module__}.{command.recipe.__name__}()"


def _known_flags(values: flags.FlagValues) -> str:
  known = ", ".join(f"--{name}" for name in _own(values))
  return f"Known flags: {known}." if known else "There are no flags."


def _own(values: flags.FlagValues) -> list[str]:
  return [name for name in values if "." not in name]


def _recipe_problem(
  error: Exception, rest: Sequence[str], command: Command
) -> str:
  """What is wrong with a recipe, or with a field that is to be changed."""
  fields = [name for name, _ in flatten(command.recipe().to_dict())]
  given = re.findall(r"--config\.([\w.]+)", " ".join(rest))
  unknown = [g for g in given if not any(_covers(g, f) for f in fields)]
  if not unknown:
    kind = type(error).__name__
    return f"the recipe of --config fails: {kind}: {_line(error, 0)}"
  section = unknown[0].rpartition(".")[0]
  near = [f for f in fields if f.startswith(f"{section}.")] or fields
  return f"unknown config field {unknown[0]!r}; known: {', '.join(near)}."


def _covers(given: str, field: str) -> bool:
  return field == given or field.startswith(f"{given}.")


def _help(name: str, values: flags.FlagValues) -> str:
  command = COMMANDS[name]
  argument = command.argument.upper()
  if argument and command.argument not in command.required:
    argument = f"[{argument}]"
  flag_words = "[--flag=value ...]" if _own(values) else ""
  words = " ".join(filter(None, [name, argument, flag_words]))
  lines = [
    command.summary,
    "",
    f"usage: python -m time_jax {words}",
    f"example: python -m time_jax {command.example}",
  ]
  if _own(values):
    lines += ["", "flags:"]
  for flag in _own(values):
    need = " (required)" if flag in command.required else ""
    default = values[flag].default
    known = f" Default: {default}." if default is not None else ""
    shown = _spelled(command, flag)
    lines.append(f"  {shown:<16} {values[flag].help}{need}{known}")
  if "config" in values:
    lines += ["", *_config_help(values["config"].value, command)]
  return "\n".join(lines)


def _config_help(config: Any, command: Command) -> list[str]:
  fields = flatten((config or command.recipe()).to_dict())
  title = "fields of this recipe:" if config else "config fields (defaults):"
  return [title, *(f"  {name:<32} {value!r}" for name, value in fields)]
