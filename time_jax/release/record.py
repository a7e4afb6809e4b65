"""time_jax.json: what a published folder says of itself, for `verify`."""

import importlib.metadata
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path, list_files
from time_jax.hf import files

RECORD = "time_jax.json"
FORMAT = 2
TASK = "task"  # key that only a fine-tuned model's record has
_PACKAGES = (
  *("time-jax", "jax", "flax", "safetensors", "tokenizers", "transformers"),
)


def read_record(folder: Path) -> dict[str, Any] | None:
  """Reads the record that `export` writes into a folder.

  Args:
    folder: a model's folder.

  Returns:
    The record, or None if the folder is no export of ours.

  Raises:
    UserError: the record is damaged, or of a version that recorded less.
  """
  path = folder / RECORD
  if not path.exists():
    return None
  record = json_file.read_json(path)
  needed = {"files"} if TASK in record else {"step", "files", "fingerprint"}
  lacking = needed - set(record)
  if lacking:
    raise UserError(
      f"{path} lacks {', '.join(sorted(lacking))}; an earlier version of "
      "time_jax wrote it, or it is damaged: export again."
    )
  return record


def check_replaceable(out: Path) -> None:
  """Checks that a folder may be written: new, empty or an earlier export.

  Raises:
    UserError: it holds something else.
  """
  earlier = (out / RECORD).exists()
  empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
  if not earlier and not empty:
    raise UserError(
      f"{out} exists and is no earlier export; expected an empty or new "
      "folder (see --out)."
    )


def package_versions() -> dict[str, str]:
  """Returns the versions of the packages that shape what is written."""
  return {
    name: importlib.metadata.version(name)
    for name in _PACKAGES
    # time-jax itself is none where it runs from a checkout.
    if any(importlib.metadata.distributions(name=name))
  }


def hashes(folder: Path) -> dict[str, Any]:
  """Returns size and SHA-256 of every file in a folder, by its name there."""
  return {
    str(path.relative_to(folder)): {
      "bytes": path.stat().st_size,
      "sha256": files.sha256(path),
    }
    for path in list_files(folder)
  }
