"""Describes where a model came from, in words for the model card."""

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import files

TRIM_RECORD = "trim.json"  # What `trim` writes into a teacher's folder.


def describe(path: str, allow_pickle: bool = False) -> dict[str, str]:
  """Describes a run's teacher, beyond the path that the run was given.

  A run calls this when it starts: its paths mean nothing on other machines.

  Args:
    path: the teacher's path, see `files.resolve`.
    allow_pickle: see `files.resolve`.

  Returns:
    name: the path as `shown_path` shows it.
    hub: id of the untrimmed model on the hub, "" if it came from elsewhere.
    trimmed_from: the teacher before `trim` and how many tokens are left; only
      if it was trimmed.
  """
  facts = {"name": shown_path(path)}
  folder = files.resolve(path, allow_pickle)
  if record := json_file.read_json_if_there(folder / TRIM_RECORD):
    path, size = record["teacher"], record["vocab_size"]
    facts["trimmed_from"] = (
      f"{shown_path(path)}: {size['after']:,} of {size['before']:,} tokens"
    )
  return facts | {"hub": hub_id(path)}


def hub_id(path: str) -> str:
  """Returns the OWNER/NAME of what came from the hub, "" for anything else.

  The hub's cache decides: a folder elsewhere may have a name of that form.
  """
  name, _, revision = path.partition("@")
  if Path(path).expanduser().is_dir():
    return ""
  try:
    cached = try_to_load_from_cache(
      name, "config.json", revision=revision or None
    )
  except HFValidationError:
    return ""
  return name if isinstance(cached, str) else ""


def shown_path(path: str) -> str:
  """Returns a path without its owner's folders; a hub id as it is."""
  local = (
    path.startswith(("/", ".", "~"))
    or path.count("/") > 1
    or Path(path).is_dir()
  )
  return Path(path).name if local and ":" not in path else path
