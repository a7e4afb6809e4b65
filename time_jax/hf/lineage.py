"""Where a model came from, as a card may say it: nothing is guessed later."""

import pathlib

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from time_jax.hf import files

_TRIMMED = "trim.json"  # What `trim` leaves in a teacher's folder.


def describe(path: str, allow_pickle: bool = False) -> dict[str, str]:
  """What a run records of its teacher beside the path that it was given.

  A path means what it means on the machine and in the folder of the run, so
  this is asked there and then.

  Args:
    path: of the teacher, see `files.resolve`.
    allow_pickle: likewise.

  Returns:
    name: the path as `shown_path` shows it.
    hub: id of the model, untrimmed, if it came from the hub.
    trimmed_from: what it was before `trim`, and what is left, if it was.
  """
  found = {"name": shown_path(path)}
  folder = files.resolve(path, allow_pickle)
  if (folder / _TRIMMED).exists():
    record = files.read_json(folder / _TRIMMED)
    path, size = record["teacher"], record["vocab_size"]
    found["trimmed_from"] = (
      f"{shown_path(path)}: {size['after']:,} of {size['before']:,} tokens"
    )
  return found | {"hub": hub_id(path)}


def hub_id(path: str) -> str:
  """The OWNER/NAME of what came from the hub; empty for anything else.

  Its cache is asked: a folder elsewhere may have had a name of that form.
  """
  name, _, revision = path.partition("@")
  if pathlib.Path(path).expanduser().is_dir():
    return ""
  try:
    found = try_to_load_from_cache(
      name, "config.json", revision=revision or None
    )
  except HFValidationError:
    return ""
  return name if isinstance(found, str) else ""


def shown_path(path: str) -> str:
  """A path without the folders of whoever trained it; a hub id as it is."""
  local = (
    path.startswith(("/", ".", "~"))
    or path.count("/") > 1
    or pathlib.Path(path).is_dir()
  )
  return pathlib.PurePath(path).name if local and ":" not in path else path
