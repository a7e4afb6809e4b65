"""Reading JSON files that others may have written, damaged or swapped."""

import json
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path

_LARGEST = 512 << 20  # bytes of a file that is read whole


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object, with an error that names the file."""
  try:
    check_size(path)
    content = json.loads(path.read_text(encoding="utf-8"))
  except UserError:
    raise
  except FileNotFoundError:
    raise UserError(f"{path} is missing.") from None
  except (ValueError, OSError, RecursionError) as error:
    raise UserError(f"{path} is not readable JSON: {error}.") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} holds {type(content).__name__}, expected {{...}}.")
  return content


def read_json_if_there(path: Path) -> dict[str, Any]:
  """Reads a JSON object, see `read_json`; empty if there is no such file."""
  return read_json(path) if path.exists() else {}


def check_size(path: Path) -> None:
  """Raises UserError for a file of more than 512 MiB that is read whole."""
  size = path.stat().st_size
  if size > _LARGEST:
    raise UserError(
      f"{path} has {size:,} bytes; expected at most {_LARGEST:,} of a file "
      "that is read whole."
    )
