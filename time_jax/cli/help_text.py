"""What `--help` prints: the list of commands, flags and config fields."""

import re
import textwrap
import typing
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from time_jax.config import comments
from time_jax.config.command import Command, RecipeCommand, flags_of
from time_jax.config.command_line import spelled
from time_jax.config.fields import flatten


def overview(commands: Mapping[str, type[Command]], group: str = "") -> str:
  """Returns the list of commands.

  Args:
    commands: all commands by name.
    group: the first word of the commands to list, such as "bench"; empty: all.
  """
  lines = [
    f"  {name:<16} {_summary(command)}"
    for name, command in commands.items()
    if group in ("", name.split()[0])
  ]
  return "\n".join(
    [
      "time_jax distils a big text encoder into a tiny monolingual one.",
      "",
      "usage: python -m time_jax COMMAND [--flag=value ...]",
      "",
      "commands:",
      *lines,
      "",
      "python -m time_jax COMMAND --help shows a command's flags,",
      "python -m time_jax --version the version.",
    ]
  )


def of_command(command: type[Command], config: ConfigDict | None = None) -> str:
  """Returns the help of a command.

  Args:
    command: which one.
    config: the recipe whose fields are shown; None: the defaults.
  """
  known = flags_of(command)
  usage = [command.name]
  if command.argument:
    word = command.argument.upper()
    required = known[command.argument].required
    usage.append(word if required else f"[{word}]")
  if known:
    usage.append("[--flag=value ...]")
  lines = [
    _summary(command),
    "",
    f"usage: python -m time_jax {' '.join(usage)}",
    f"example: python -m time_jax {command.example}",
  ]
  if known:
    lines += ["", "flags:"]
  explained = comments.of_class(command)
  for name, flag in known.items():
    text = explained[flag.field]
    if typing.get_origin(flag.kind) is typing.Literal:
      text += f" One of {', '.join(typing.get_args(flag.kind))}."
    if flag.required:
      text += " (required)"
    elif flag.default not in (None, "", ()):
      several = isinstance(flag.default, tuple)
      default = ",".join(map(str, flag.default)) if several else flag.default
      text += f" Default: {default}."
    lines.append(_wrapped(text, f"  {spelled(command, name):<16} ", 19))
  if issubclass(command, RecipeCommand):
    lines += ["", *_config_fields(command, config)]
  return "\n".join(lines)


def _config_fields(
  command: type[RecipeCommand], config: ConfigDict | None
) -> Iterator[str]:
  """Yields a line for each field with its value and range, and its comment."""
  yield "fields of this recipe:" if config else "config fields (defaults):"
  explained = comments.of_config(command.recipe)
  for name, value in flatten((config or command.recipe()).to_dict()):
    # That of a student is explained where the field of all is.
    limits = command.ranges.get(re.sub(r"^students\.\w+\.", "", name))
    yield f"  {name:<32} {value!r}" + (f" (from {limits})" if limits else "")
    if name in explained:
      yield _wrapped(explained[name], " " * 6, 6)
  if several := explained.get("students"):
    yield f"  {'students.NAME.FIELD':<32} as FIELD"
    yield _wrapped(several, " " * 6, 6)


def _summary(command: type[Command]) -> str:
  return (command.__doc__ or "").splitlines()[0]


def _wrapped(text: str, first: str, indent: int) -> str:
  return textwrap.fill(
    text,
    80,
    initial_indent=first,
    subsequent_indent=" " * indent,
    break_on_hyphens=False,
    break_long_words=False,
  )
