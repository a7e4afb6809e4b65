r"""What stands behind the colon of `FILE:NAME=VALUE,NAME=VALUE`.

A comma separates arguments where NAME= follows it; any other is a part of the
value, such as of a path. `\,` is always a comma of the value, and `\\` is a
backslash; before anything else a backslash stands for itself.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from time_jax.core.errors import UserError

_PIECE = re.compile(r"((?:\\[\\,]|[^,])*)(?:,|$)")  # up to a comma without \
_NAMED = re.compile(r"[A-Za-z_]\w*=")
_SPECIAL = re.compile(r"[\\,]")
_ESCAPED = re.compile(r"\\([\\,])")


def parse(
  text: str, file: str, known: Collection[str] | None = None
) -> dict[str, str]:
  """Splits arguments.

  Args:
    text: all of them.
    file: whose they are, for messages.
    known: the names that there are; None: any.

  Raises:
    UserError: a name is not known, or has no value.
  """
  found: dict[str, str] = {}
  for pieces in _arguments(text):
    name, _, value = ",".join(pieces).partition("=")
    if known is not None and name not in known:
      raise UserError(
        f"{file} has no argument {name!r}; known: {', '.join(known)}."
      )
    if empty := {*pieces[1:]} & {*(known or ())}:
      raise UserError(
        f"{file}: the argument {min(empty)!r} has no value; expected "
        f"{min(empty)}=VALUE."
      )
    found[name] = _ESCAPED.sub(r"\1", value)
  return found


def _arguments(text: str) -> Iterator[list[str]]:
  """What is between the commas of each argument; none ends with a comma."""
  pieces: list[str] = []
  for piece in _PIECE.findall(text):
    if pieces and _NAMED.match(piece):
      yield _stripped(pieces)
      pieces = []
    if piece or pieces:
      pieces.append(piece)
  if pieces:
    yield _stripped(pieces)


def _stripped(pieces: list[str]) -> list[str]:
  """The pieces without the empty ones at the end."""
  while not pieces[-1]:
    pieces = pieces[:-1]
  return pieces


def join(values: Mapping[str, str]) -> str:
  """Arguments as `parse` takes them."""
  return ",".join(
    f"{name}=" + _SPECIAL.sub(r"\\\g<0>", value)
    for name, value in values.items()
  )
