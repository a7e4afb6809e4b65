"""Folders that a run writes to, and how it writes."""

import json
import math
import os
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

from time_jax.core.errors import UserError, unwritable
from time_jax.core.storage import lease


def local_path(text: str) -> pathlib.Path:
  """A path as a user types it.

  Raises:
    UserError: it is an address, which would become a folder called `gs:`.
  """
  if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
    raise UserError(
      f"{text} is an address; expected a path on a file system of this "
      "machine: mount what it names, or copy it here."
    )
  return pathlib.Path(text).expanduser()


def prepare_workdir(workdir: pathlib.Path) -> None:
  """Makes the folder and proves that it can be written to."""
  probe = workdir / f".write-test-{time.time_ns()}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.write_text("x")
    probe.unlink()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written to: {unwritable(error)}."
    ) from error


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file that is there whole, or as it was before.

  Raises:
    RunError: another process writes what this one did, see `lease.check`.
  """
  lease.check()
  fresh = path.with_name(f"{path.name}.tmp")
  with fresh.open("w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())  # Also where the machine itself goes down.
  fresh.replace(path)


def as_json(content: Any, **how: Any) -> str:
  """The JSON that files get, in which null stands for NaN and infinity.

  JSON has no such numbers, and most readers refuse a file that names them.

  Args:
    content: what `json.dumps` takes.
    **how: as for `json.dumps`.
  """
  return json.dumps(without_nan(content), allow_nan=False, **how)


def without_nan(content: Any) -> Any:
  """The same content with None for every number that is not finite."""
  if isinstance(content, float):
    return content if math.isfinite(content) else None
  if isinstance(content, Mapping):
    return {name: without_nan(value) for name, value in content.items()}
  if isinstance(content, list | tuple):
    return [without_nan(value) for value in content]
  return content


def write_json(path: pathlib.Path, content: Any, **how: Any) -> None:
  """Writes a JSON file in one piece, indented; see `as_json`."""
  write_text(path, as_json(content, indent=2, **how) + "\n")
