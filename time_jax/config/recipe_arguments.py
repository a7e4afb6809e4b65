r"""The arguments in `FILE:NAME=VALUE,NAME=VALUE`, of a recipe or a sweep file.

A comma separates arguments where NAME= follows it; any other comma is a part of
the value, such as of a path. `\,` is always a comma of the value, and `\\` is a
backslash; before any other character a backslash stands for itself.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from time_jax.core.errors import UserError

_PART = re.compile(r"((?:\\[\\,]|[^,])*)(?:,|$)")  # up to a comma without \
_NAMED = re.compile(r"[A-Za-z_]\w*=")
_SPECIAL = re.compile(r"[\\,]")
_ESCAPED = re.compile(r"\\([\\,])")


def parse(
  text: str, file: str, known: Collection[str] | None = None
) -> dict[str, str]:
  """Splits the text after the colon into arguments.

  Args:
    text: NAME=VALUE,NAME=VALUE.
    file: the file that takes the arguments, for messages.
    known: the names that the file takes; None: any.

  Returns:
    The values by name.

  Raises:
    UserError: a name is unknown, or has no value.
  """
  values: dict[str, str] = {}
  for parts in _split(text):
    name, _, value = ",".join(parts).partition("=")
    if known is not None and name not in known:
      raise UserError(
        f"{file} has no argument {name!r}; known: {', '.join(known)}."
      )
    if without_value := {*parts[1:]} & {*(known or ())}:
      name = min(without_value)
      raise UserError(
        f"{file}: the argument {name!r} has no value; expected {name}=VALUE."
      )
    values[name] = _ESCAPED.sub(r"\1", value)
  return values


def several(
  text: str, name: str, file: str, known: Collection[str]
) -> list[str]:
  """Splits the value of an argument that names one or several, such as `m+xs`.

  Args:
    text: names with + between them.
    name: name of the argument.
    file: the file that takes it, for messages.
    known: what may be named.

  Raises:
    UserError: what is named is unknown, or is named twice.
  """
  names = text.split("+")
  if unknown := [one for one in names if one not in known]:
    raise UserError(
      f"{file}: unknown {name} {unknown[0]!r}; known: {', '.join(known)}."
    )
  if len({*names}) < len(names):
    raise UserError(
      f"{file}: {name}={text} names a {name} twice; expected each once."
    )
  return names


def numbers(text: str, name: str, file: str) -> list[int]:
  """Splits the value of an argument that is one or several whole numbers.

  Args:
    text: numbers with + between them; empty: none.
    name: name of the argument.
    file: the file that takes it, for messages.

  Raises:
    UserError: a part is no whole number.
  """
  parts = text.split("+") if text else []
  if any(not part.isdecimal() for part in parts):
    raise UserError(
      f"{file}: {name}={text!r}; expected whole numbers with + between them, "
      "such as 0+100."
    )
  return [int(part) for part in parts]


def _split(text: str) -> Iterator[list[str]]:
  """Yields what is between the commas of each argument."""
  groups: list[list[str]] = [[]]
  for part in _PART.findall(text):
    if _NAMED.match(part):
      groups.append([])
    if part or groups[-1]:
      groups[-1].append(part)
  for group in groups:
    while group and not group[-1]:
      group.pop()
    if group:
      yield group


def join(values: Mapping[str, str]) -> str:
  """Returns the text that `parse` splits into these values."""
  return ",".join(
    f"{name}=" + _SPECIAL.sub(r"\\\g<0>", value)
    for name, value in values.items()
  )
