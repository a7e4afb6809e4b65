"""JSON files that appear whole, and hold what they should."""

import dataclasses
import pathlib
import typing
from typing import Any, TypeVar, cast

from time_jax.core.storage import atomic_file

T = TypeVar("T")


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a file that appears whole or not at all, also after a crash."""
  atomic_file.write_json(path, content, sort_keys=True)


def checked(kind: type[T], values: dict[str, Any]) -> T:
  """A dataclass from JSON; TypeError where a field is of another type."""
  made = kind(**values)
  for field in dataclasses.fields(cast(Any, kind)):
    value, wanted = getattr(made, field.name), cast(Any, field.type)
    right = isinstance(value, typing.get_origin(wanted) or wanted)
    if not right or isinstance(value, bool) != (wanted is bool):
      raise TypeError(f"{field.name} is {value!r:.40}")
  return made
