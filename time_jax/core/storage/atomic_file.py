"""Files that are written whole or not at all, and the JSON in them."""

import dataclasses
import json
import math
import os
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from time_jax.core.storage import lease
from time_jax.core.storage.paths import Path

T = TypeVar("T")


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file atomically: readers see the old content or all of the new.

  This also holds where the process is killed or the machine goes down.

  Args:
    path: the file, whose folder exists.
    content: content of the file.

  Raises:
    RunError: another process has taken this one's lease, see `lease.check`.
    OSError: the file system refuses.
  """
  lease.check()
  fresh = path.with_name(f"{path.name}.tmp")
  with fresh.open("wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  fresh.replace(path)


def write_text(path: Path, text: str) -> None:
  """Writes a text file in UTF-8 atomically, see `write_bytes`."""
  write_bytes(path, text.encode())


def write_json(path: Path, content: Any, **options: Any) -> None:
  """Writes an indented JSON file atomically, see `write_bytes`.

  Args:
    path: the file, whose folder exists.
    content: content of the file, see `as_json`.
    **options: keyword arguments of `json.dumps`.
  """
  write_text(path, as_json(content, **({"indent": 2} | options)) + "\n")


def read_json(path: Path) -> Any:
  """Returns what a JSON file holds.

  Args:
    path: the file.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no JSON, or no text in UTF-8; see `DAMAGED_JSON` for what
      else a reader of its content may have to catch.
  """
  return json.loads(path.read_text(encoding="utf-8"))


def as_json(content: Any, **options: Any) -> str:
  """Returns content as JSON, in which null stands for NaN and infinity.

  JSON has no such numbers, and most readers refuse a file that names them.

  Args:
    content: what `json.dumps` takes.
    **options: keyword arguments of `json.dumps`.
  """
  return json.dumps(without_nan(content), allow_nan=False, **options)


def without_nan(content: Any) -> Any:
  """Returns nested content with None for each number that is not finite."""
  if isinstance(content, float):
    return content if math.isfinite(content) else None
  if isinstance(content, Mapping):
    return {name: without_nan(value) for name, value in content.items()}
  if isinstance(content, list | tuple):
    return [without_nan(value) for value in content]
  return content


def from_json(kind: type[T], values: dict[str, Any]) -> T:
  """Makes a dataclass of an object that was read from JSON.

  Args:
    kind: the dataclass.
    values: its fields by name.

  Returns:
    An instance in which every field has the type that the class states.

  Raises:
    TypeError: a field is missing, unknown, or of another type.
  """
  made = kind(**values)
  for field in dataclasses.fields(cast(Any, kind)):
    value, wanted = getattr(made, field.name), cast(Any, field.type)
    matches = isinstance(value, typing.get_origin(wanted) or wanted)
    if not matches or isinstance(value, bool) != (wanted is bool):
      raise TypeError(f"{field.name} is {value!r:.40}")
  return made
