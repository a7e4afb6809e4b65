r"""What stands behind the colon of `FILE:NAME=VALUE,NAME=VALUE`.

A comma separates arguments where NAME= follows it; any other is a part of the
value, such as of a path. One that NAME= follows may be a part, too: `\,`.
"""

import re
from collections.abc import Collection, Mapping

from time_jax.errors import UserError

_BETWEEN = re.compile(r"(?<!\\),(?=[A-Za-z_]\w*=)")


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
  for argument in filter(None, _BETWEEN.split(text.strip(","))):
    name, _, value = argument.rstrip(",").partition("=")
    if known is not None and name not in known:
      raise UserError(
        f"{file} has no argument {name!r}; known: {', '.join(known)}."
      )
    if empty := {*value.split(",")[1:]} & {*(known or ())}:
      raise UserError(
        f"{file}: the argument {min(empty)!r} has no value; expected "
        f"{min(empty)}=VALUE."
      )
    found[name] = value.replace("\\,", ",")
  return found


def join(values: Mapping[str, str]) -> str:
  """Arguments as `parse` takes them."""
  return ",".join(
    f"{name}={value}".replace(",", "\\,") for name, value in values.items()
  )
