"""Parses a command line into a `Command`, and says what is wrong with it."""

import decimal
import difflib
import functools
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from time_jax.config import comments, recipe_files, students
from time_jax.config.command import Command, Flag, RecipeCommand, flags_of
from time_jax.config.distill import missing_fields
from time_jax.config.fields import flatten, unknown
from time_jax.config.ranges import refuse
from time_jax.core.errors import UserError, first_line, kind_and_reason
from time_jax.core.storage.paths import Path, local_path

_MAX_EXPONENT = 18  # of a whole number, which may be written as 1e5
_FIELD = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


def split(
  argv: Sequence[str], commands: Mapping[str, type[Command]]
) -> tuple[type[Command], list[str]]:
  """Returns the command that a command line names, and the words after it.

  Args:
    argv: a command line without the program's name.
    commands: all commands by name.

  Raises:
    UserError: there is no such command.
  """
  for count in (2, 1):
    if command := commands.get(" ".join(argv[:count])):
      return command, list(argv[count:])
  groups = {name.split()[0] for name in commands if " " in name}
  given = " ".join(argv[: 2 if {*argv[:1]} & groups else 1])
  raise UserError(unknown("command", given, commands))


def spelled(command: type[Command], name: str) -> str:
  """Returns a flag as messages show it: --NAME, or NAME for the argument."""
  return name.upper() if name == command.argument else f"--{name}"


def parse(command: type[Command], words: Sequence[str]) -> Command:
  """Parses the words that follow a command's name.

  Raises:
    UserError: a flag, a config field or a recipe is unknown, missing or wrong.
  """
  values, others = parse_values(command, words)
  if others:
    raise UserError(
      f"unexpected argument {others[0]!r}. {_known_flags(command)}"
    )
  missing = [
    spelled(command, name)
    for name, flag in flags_of(command).items()
    if flag.required and not values.get(flag.field)
  ]
  if missing:
    raise UserError(
      f"{command.name} needs {' and '.join(missing)}; for example: python -m "
      f"time_jax {command.example}"
    )
  return command(**values)


def parse_values(
  command: type[Command], words: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
  """Parses like `parse`, but required flags may be missing.

  Returns:
    The values that were given, by field of the command, and the arguments that
    it does not take.
  """
  known = flags_of(command)
  values: dict[str, Any] = {}
  parser = flags.FlagValues()
  parser.set_gnu_getopt()  # Flags may follow the argument.
  if issubclass(command, RecipeCommand):
    del known["config"]
    spec, words = _take_config(words)
    if spec is not None:
      values["config"] = _load_config(spec, command, words)
  elif hasattr(command, "config_fields"):
    values["config_fields"], words = _take_config_fields(words)
  for name, flag in known.items():
    _define(name, flag, parser)
  others = _parse_words(parser, command, words, values.get("config"))
  for name, flag in known.items():
    if parser[name].present:
      values[flag.field] = parser[name].value
  if issubclass(command, RecipeCommand) and "config" in values:
    # A section may have been replaced as a whole: --config.train={...}.
    _check_complete(values["config"], command)
    changed = config_flags.get_override_values(parser["config"])
    values["changed_fields"] = frozenset(changed)
    refuse(students.problems(values["config"]))
    refuse(students.unused(values["config"], changed))
  return values, others


def _take_config(words: Sequence[str]) -> tuple[str | None, list[str]]:
  """Splits off the value of --config, which must be known before its fields."""
  spec, others = None, []
  remaining = iter(words)
  for word in remaining:
    if word == "--":
      others += [word, *remaining]
    elif match := re.match(r"--?config=", word):
      spec = word[match.end() :]
    elif word in ("--config", "-config"):
      spec = next(remaining, "")
    else:
      others.append(word)
  if spec is None and (field := next(filter(_FIELD.fullmatch, others), None)):
    name = field.partition("=")[0]
    raise UserError(f"{name} needs --config as well.")
  return spec, others


def _load_config(
  spec: str, command: type[RecipeCommand], words: Sequence[str]
) -> ConfigDict:
  """Returns the recipe's config, with all fields that the words change."""
  config = recipe_files.load_config(spec)
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"the recipe of --config gives {type(config).__name__}, expected a "
      f"changed {_made_by(command)}."
    )
  _check_complete(config, command)
  typed = [match[2] for match in map(_FIELD.fullmatch, words) if match]
  students.add_places(config, typed)
  content = config.to_dict()
  names = [name for name, _ in flatten(content)]
  for field in typed:
    if not _exists(field, content):
      section = field.rpartition(".")[0]
      near = [name for name in names if name.startswith(f"{section}.")] or names
      raise UserError(unknown("config field", field, near))
  return config


def _made_by(command: type[RecipeCommand]) -> str:
  return f"{command.recipe.__module__}.{command.recipe.__name__}()"


def _check_complete(config: ConfigDict, command: type[RecipeCommand]) -> None:
  """Raises UserError for fields that the command needs and a config lacks."""
  if missing := missing_fields(config.to_dict(), command.recipe()):
    raise UserError(
      f"the recipe of --config lacks fields such as {', '.join(missing[:3])}; "
      f"expected a changed {_made_by(command)}."
    )


def _exists(field: str, content: Any) -> bool:
  """Whether a config has a field such as train.num_steps or seeds[0]."""
  for name in re.sub(r"\[.*?\]", "", field).split("."):
    if not isinstance(content, dict) or name not in content:
      return False
    content = content[name]
  return True


def _take_config_fields(
  words: Iterable[str],
) -> tuple[tuple[str, ...], list[str]]:
  """Splits off each --config.FIELD=VALUE; the last one of a field counts."""
  fields, others = {}, []
  for word in words:
    if match := _FIELD.fullmatch(word):
      negated, name, value = match.groups()
      fields[name] = str(not negated) if value is None else value
    else:
      others.append(word)
  return tuple(f"--config.{n}={fields[n]}" for n in sorted(fields)), others


class _Parser(flags.ArgumentParser):
  """Converts what was typed by a function; a default stays as it is."""

  def __init__(self, convert: Callable[[Any], Any]) -> None:
    self._convert = convert

  def parse(self, argument: Any) -> Any:
    typed = isinstance(argument, str | list)
    return self._convert(argument) if typed else argument


def _define(name: str, flag: Flag, parser: flags.FlagValues) -> None:
  """Defines a flag whose value is converted to the type of its field."""
  kind, several = flag.kind, typing.get_origin(flag.kind) is list
  convert = _converter(typing.get_args(kind)[0] if several else kind)
  if isinstance(flag.default, tuple) and flag.default:
    convert = functools.partial(_one_or_more, convert)
  flag_class = flags.MultiFlag if several else flags.Flag
  holder = flag_class(
    _Parser(convert),
    flags.ArgumentSerializer(),
    name,
    flag.default,
    "",
    boolean=kind is bool,
  )
  flags.DEFINE_flag(holder, parser)


def _converter(kind: Any) -> Callable[[str], Any]:
  """Returns the function that converts a flag's text to a type."""
  if typing.get_origin(kind) is Annotated:
    convert, (limit,) = _converter(kind.__origin__), kind.__metadata__
    return functools.partial(_at_least, convert, limit.lowest)
  if typing.get_origin(kind) is typing.Literal:
    return functools.partial(_choice, typing.get_args(kind))
  if typing.get_origin(kind) is tuple:
    element = _converter(typing.get_args(kind)[0])
    return lambda text: tuple(map(element, flags.ListParser().parse(text)))
  known = {
    bool: _boolean,
    int: _whole_number,
    float: _number,
    Path: lambda text: local_path(text) if text else None,
  }
  return known.get(kind, str)


def _one_or_more(
  convert: Callable[[str], tuple[Any, ...]], text: str
) -> tuple[Any, ...]:
  values = convert(text)
  if not values:
    raise ValueError("expected one value or more, with commas between them")
  return values


def _boolean(text: str) -> bool:
  try:
    return flags.BooleanParser().parse(text)
  except ValueError:
    raise ValueError("expected true or false") from None


def _whole_number(text: str) -> int:
  try:
    number = decimal.Decimal(text)  # Takes 1e5, too.
    if number.adjusted() <= _MAX_EXPONENT and number == int(number):
      return int(number)
  except (ArithmeticError, ValueError):
    pass
  raise ValueError("expected a whole number")


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise ValueError("expected a number") from None


def _at_least(convert: Callable[[str], Any], lowest: float, text: str) -> Any:
  number = convert(text)
  if not number >= lowest:
    kind = "a whole number" if isinstance(number, int) else "a number"
    raise ValueError(f"expected {kind} of at least {lowest}")
  return number


def _choice(choices: Sequence[str], text: str) -> str:
  if text not in choices:
    raise ValueError(f"expected one of {', '.join(choices)}")
  return text


config_flags.register_flag_parser_for_type(bool, _Parser(_boolean))
config_flags.register_flag_parser_for_type(int, _Parser(_whole_number))
config_flags.register_flag_parser_for_type(float, _Parser(_number))


def _parse_words(
  parser: flags.FlagValues,
  command: type[Command],
  words: Sequence[str],
  config: ConfigDict | None,
) -> list[str]:
  """Sets the flags that are typed, and returns the arguments left over."""
  known = flags_of(command)
  argv = ["time_jax", *words]
  try:
    if config is not None:
      config_flags.DEFINE_config_dict(
        "config", config, flag_values=parser, sys_argv=argv
      )
    others = parser(argv)[1:]
    if command.argument and others:
      several = typing.get_origin(known[command.argument].kind) is tuple
      given, others = (others, []) if several else (others[0], others[1:])
      parser[command.argument].parse(given)
    return others
  except flags.UnrecognizedFlagError as error:
    near = difflib.get_close_matches(error.flagname, known, 1)
    guess = f" Did you mean --{near[0]}?" if near else ""
    raise UserError(
      f"unknown flag {error.flagname!r}.{guess} {_known_flags(command)}"
    ) from error
  except (flags.Error, ValueError) as error:
    if isinstance(error.__context__, UserError):
      raise error.__context__ from None
    raise UserError(_wrong_value(error, command)) from error
  except (AttributeError, LookupError, TypeError) as error:
    # ml_collections raises any of them for an index, as in seeds[0].
    raise UserError(
      f"a field of --config cannot be changed: {kind_and_reason(error)}."
    ) from error


def _known_flags(command: type[Command]) -> str:
  names = ", ".join(f"--{name}" for name in flags_of(command))
  return f"Known flags: {names}." if names else "There are no flags."


def _wrong_value(error: Exception, command: type[Command]) -> str:
  line = first_line(error)
  match = re.fullmatch(r"Missing value for flag --?(\w+)\.", line)
  if match and match[1] in flags_of(command):
    comment = comments.of_class(command)[flags_of(command)[match[1]].field]
    return f"--{match[1]} needs a value: {comment}"
  return line
