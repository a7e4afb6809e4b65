"""Finds the files that hold a model's weights: a single one, or an index's.

Weights are safetensors; pickles only where the user allows them.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path, list_files
from time_jax.hf import files

_ALLOW = (
  "--config.teacher.allow_pickle=True (--config.allow_pickle=True of finetune, "
  "--allow_pickle of inspect, import, verify, trim)"
)


@dataclasses.dataclass(frozen=True)
class WeightFiles:
  """The files that hold a model's weights.

  Attributes:
    paths: the files, sorted by name.
    index: name of a tensor -> name of the file in which it counts; None where
      there is a single file.
    ignored_index: name of an index that lies beside a single file, or "".
  """

  paths: list[Path]
  index: Mapping[str, str] | None = None
  ignored_index: str = ""


def find_weights(folder: Path, allow_pickle: bool = False) -> WeightFiles:
  """Finds the files of a folder that hold its weights.

  Args:
    folder: the model's folder.
    allow_pickle: whether pickles count where there is no safetensors.

  Raises:
    UserError: there are no weights, or only pickles, which are not allowed.
  """
  weights = _find("model.safetensors", folder)
  if not weights and allow_pickle:
    weights = _find("pytorch_model.bin", folder)
  if weights:
    return weights
  if list_files(folder, "*.bin") and not allow_pickle:
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


def _find(single: str, folder: Path) -> WeightFiles | None:
  """Returns the file `single`, else the parts in its index, else None.

  transformers looks in the same order, so an index that was left behind by an
  earlier version of the model does not count.
  """
  index = folder / f"{single}.index.json"
  if files.exists(folder / single):
    if not index.exists() or _names_only(index, single):
      return WeightFiles([folder / single])
    note(
      f"{folder} holds {single} and {index.name}; the whole file counts, as in "
      "transformers, and the index is not read."
    )
    return WeightFiles([folder / single], ignored_index=index.name)
  if not index.exists():
    return None
  file_of = {tensor: str(file) for tensor, file in _weight_map(index).items()}
  names = sorted(set(file_of.values()))
  # An index is input: it must not point outside of its own folder, nor have a
  # pickle opened that nobody allowed.
  end = Path(single).suffix
  odd = [n for n in names if os.path.basename(n) != n or not n.endswith(end)]
  if odd or not names:
    raise UserError(
      f"{index} names {odd or 'no file'}; expected {end} files that lie "
      "beside it."
    )
  missing = [n for n in names if not files.exists(folder / n)]
  if missing:
    raise UserError(
      f"{index} names {missing}, missing in that folder; expected the "
      "complete model: download it again."
    )
  return WeightFiles([folder / n for n in names], file_of)


def _weight_map(index: Path) -> Mapping[str, Any]:
  table = json_file.read_json(index).get("weight_map")
  return table if isinstance(table, dict) else {}


def _names_only(index: Path, single: str) -> bool:
  """Returns whether an index says that all tensors are in one file."""
  try:
    return set(map(str, _weight_map(index).values())) == {single}
  except UserError:  # It does not count, so neither does its damage.
    return False


def fingerprint(folder: Path, allow_pickle: bool = False) -> str:
  """Returns the SHA-256 over config.json and the weights of a folder."""
  digest = hashlib.sha256()
  weights = find_weights(folder, allow_pickle)
  for path in [folder / "config.json", *weights.paths]:
    digest.update(bytes.fromhex(files.sha256(path)))
  return digest.hexdigest()
