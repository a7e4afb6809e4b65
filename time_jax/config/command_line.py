"""The words behind a command: how they are parsed, and told what is wrong."""

import decimal
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from time_jax.config.command import Command
from time_jax.config.distill import flatten, missing_fields
from time_jax.core.errors import UserError

_HELP = ("-h", "--help", "-help")
_DIGITS = 18  # of a whole number that may be written as 1e5
_SWEEPS = "sweep_*.py"


def split(
  argv: Sequence[str], commands: Mapping[str, Command]
) -> tuple[str | None, list[str]]:
  """Name of a command and the words behind it.

  No name: help is wanted, of the group of commands that stands behind, if any.

  Args:
    argv: a command line without the program's name.
    commands: all there are.

  Raises:
    UserError: no such command.
  """
  argv = list(argv)
  if not argv or argv[0] in ("help", *_HELP):
    return None, []
  for words in (2, 1):
    name = " ".join(argv[:words])
    if name in commands:
      return name, argv[words:]
  groups = {name.split()[0] for name in commands if " " in name}
  if argv[0] in groups and any(word in _HELP for word in argv):
    return None, argv[:1]
  shown = " ".join(argv[:2]) if argv[0] in groups else argv[0]
  raise UserError(f"unknown command {shown!r}; known: {', '.join(commands)}.")


def parse(name: str, command: Command, rest: Sequence[str]) -> Any:
  """Flag values; None if only help was asked for, which is printed.

  Args:
    name: of the command.
    command: takes the flags.
    rest: the words behind its name.

  Raises:
    UserError: a flag, a field or a recipe that cannot be.
  """
  wants_help = any(word in _HELP for word in rest)
  rest = _config_first([word for word in rest if word not in _HELP])
  values = _defined(command, rest)
  if "config" in values:
    _check_recipes_exist(rest)
  try:
    values, left = _parsed(values, command, rest)
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
    raise UserError(_flag_problem(error, values)) from error
  except Exception as error:  # A recipe is a program, which may raise it.
    raise UserError(_recipe_problem(error, rest, command)) from error
  _check_recipe(values, command)
  if wants_help:
    print(_help(name, command, values))
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


def _config_first(words: Sequence[str]) -> list[str]:
  """Moves --config to the front, however the words were ordered.

  Which fields there are is known only once the recipe has been read.
  """
  first: list[str] = []
  others: list[str] = []
  left = iter(words)
  for word in left:
    if word == "--":
      return [*first, *others, word, *left]
    if re.match(r"--?config=", word):
      first.append(word)
    elif word in ("--config", "-config") and (value := next(left, None)):
      first.append(f"--config={value}")
    else:
      others.append(word)
  return [*first, *others]


def _check_recipes_exist(words: Iterable[str]) -> None:
  for word in words:
    found = re.fullmatch(r"--?config=([^:]*).*", word, re.DOTALL)
    if found and not pathlib.Path(found[1]).is_file():
      raise no_file("recipe", found[1])


def no_file(kind: str, name: str) -> UserError:
  """Says where a recipe or a sweep was looked for, and which there are.

  Args:
    kind: "recipe" or "sweep".
    name: what the user typed.
  """
  places = (
    pathlib.Path("configs"),
    pathlib.Path(__file__).parents[2] / "configs",
  )
  for folder in places:
    known = [
      path.name
      for path in sorted(folder.glob("*.py"))
      if path.match(_SWEEPS) == (kind == "sweep")
    ]
    if known:
      break
  here = folder == places[0]
  there = ", ".join(str(folder / name) if here else name for name in known)
  advice = "run from the repository, or give a full path"
  if here:
    advice = f"there are {there}"
  elif known:
    advice += f"; in {folder} there are {there}"
  return UserError(
    f"no {kind} at {name!r}, looked for in {pathlib.Path.cwd()}: {advice}."
  )


def _defined(command: Command, words: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  values.set_gnu_getopt()  # Flags may stand behind the argument, too.
  for define in command.define:
    define(values, words)
  return values


def _parsed(
  values: flags.FlagValues, command: Command, words: Sequence[str]
) -> tuple[flags.FlagValues, list[str]]:
  """Flag values, and the words that are no flags."""
  try:
    return values, values(["time_jax", *words])[1:]
  except flags.IllegalFlagValueError as error:
    changed = _with_whole_number(words, error)
    if changed is None:
      raise
    return _parsed(_defined(command, changed), command, changed)


def _with_whole_number(
  words: Sequence[str], error: flags.IllegalFlagValueError
) -> list[str] | None:
  """The words with digits for a value such as 1e5; None if it is no such.

  Which flags take whole numbers is known from the error of the one that got
  something else: types of fields are those of the recipe.
  """
  found = re.fullmatch(
    r"flag --(\S+?)=(\S+): invalid literal for int.*", str(error)
  )
  if not found:
    return None
  name, value = found.groups()
  try:
    number = decimal.Decimal(value)
  except decimal.InvalidOperation:
    return None
  if not number.is_finite() or number.adjusted() >= _DIGITS or number % 1:
    return None
  pairs = {f"--{name}={value}": f"--{name}={int(number)}"}
  changed = [pairs.get(word, word) for word in words]
  for i, (flag, word) in enumerate(itertools.pairwise(words)):
    if (flag, word) == (f"--{name}", value):
      changed[i + 1] = str(int(number))
  return changed if changed != list(words) else None


def _flag_problem(error: flags.Error, values: flags.FlagValues) -> str:
  lines = str(error).strip().splitlines()
  if len(lines) > 1:  # A recipe's own error arrives as a traceback in a text.
    return _line(error, -1).removeprefix("time_jax.core.errors.UserError: ")
  line = _line(error, -1)
  lacking = re.fullmatch(r"Missing value for flag (--(\w+))\.", line)
  if lacking and lacking[2] in values:
    return f"{lacking[1]} needs a value: {values[lacking[2]].help}"
  for words, expected in (
    (r"invalid literal for int\(\) with base 10: .*", "a whole number"),
    (r"could not convert string to float: .*", "a number"),
    (r"\('Non-boolean argument.*", "true or false"),
  ):
    line = re.sub(words, f"expected {expected}.", line)
  return line


def _spelled(command: Command, flag: str) -> str:
  return flag.upper() if flag == command.argument else f"--{flag}"


def _line(error: BaseException, which: int) -> str:
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
    raise UserError(_unreadable(error)) from error
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
  if isinstance(error, OSError):
    return _unreadable(error)
  if not unknown:
    kind = type(error).__name__
    return f"the recipe of --config fails: {kind}: {_line(error, 0)}"
  section = unknown[0].rpartition(".")[0]
  near = [f for f in fields if f.startswith(f"{section}.")] or fields
  return f"unknown config field {unknown[0]!r}; known: {', '.join(near)}."


def _unreadable(error: OSError) -> str:
  """Says which file could not be read, of an error that was kept for later."""
  cause = error.__cause__ or error
  return f"the recipe of --config cannot be read: {_line(cause, -1)}"


def _covers(given: str, field: str) -> bool:
  return field == given or field.startswith(f"{given}.")


def _help(name: str, command: Command, values: flags.FlagValues) -> str:
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
  lines = [title]
  for name, value in fields:
    limits = command.ranges.get(name)
    shown = f" (from {limits})" if limits else ""
    lines.append(f"  {name:<32} {value!r}{shown}")
  return lines
