"""Folders that a run writes to, and how it writes."""

import json
import os
import pathlib
import time
from typing import Any

from time_jax.errors import UserError


def prepare_workdir(workdir: pathlib.Path) -> None:
  """Makes the folder and proves that it can be written to."""
  probe = workdir / f".write-test-{time.time_ns()}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.write_text("x")
    probe.unlink()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written to: {error.strerror or error}; "
      "expected a folder with write permission and free space."
    ) from error


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file that is there whole, or as it was before."""
  fresh = path.with_name(f"{path.name}.tmp")
  with fresh.open("w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())  # Also where the machine itself goes down.
  fresh.replace(path)


def write_json(path: pathlib.Path, content: Any) -> None:
  """The same for JSON, indented."""
  write_text(path, json.dumps(content, indent=2) + "\n")
