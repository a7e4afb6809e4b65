"""Reads the folder of an export, as far as its ONNX files need it."""

import dataclasses
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage import json_file
from time_jax.core.storage.atomic_folder import explain_missing
from time_jax.core.storage.paths import Path, local_path
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import fine_tuned
from time_jax.hf.onnx_names import BESIDE, FOLDER, INT8, PLAIN, RELATIONS

VECTORS = "vectors"  # what an encoder is for that was not fine-tuned
# All files that a model may be read from.
NAMES = (
  "config.json",
  "task.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "README.md",
  *(f"{FOLDER}/{name}{x}" for name in (PLAIN, INT8) for x in ("", BESIDE)),
  f"{FOLDER}/{RELATIONS}",
)
_LARGEST_LIMIT = 1 << 20  # transformers writes 1e30 where there is no limit


@dataclasses.dataclass(frozen=True)
class Folder:
  """An export with ONNX files.

  Attributes:
    path: the folder.
    task: such as "ner"; `VECTORS` of an encoder.
    description: content of task.json; empty of an encoder.
    tokenizer: the tokenizer.
    longest: tokens of a row at most.
    int8: whether the graph in 8 bits is meant.
  """

  path: Path
  task: str
  description: dict[str, Any]
  tokenizer: TokenizerSpec
  longest: int
  int8: bool

  def file(self, name: str = "") -> Path:
    """Returns the path of a graph; by default of the model's own.

    Raises:
      UserError: there is none.
    """
    path = self.path / FOLDER / (name or (INT8 if self.int8 else PLAIN))
    if not path.exists():
      raise UserError(
        f"{path} is missing; expected the folder that `time-jax export --onnx` "
        "writes: export the model again, with --onnx."
      )
    return path

  def files(self) -> list[str]:
    """Returns the names of the files that the model is read from.

    Raises:
      UserError: its graph is missing.
    """
    self.file()
    other = f"{FOLDER}/{PLAIN if self.int8 else INT8}"
    return [
      name
      for name in NAMES
      if not name.startswith(other) and (self.path / name).is_file()
    ]


def read(name: str, int8: bool) -> Folder:
  """Reads an export.

  Args:
    name: path of the folder.
    int8: see `Folder`.

  Raises:
    UserError: it is no such folder, or half of it is missing.
  """
  path = local_path(name)
  if not path.is_dir():
    raise UserError(
      explain_missing(path)
      or f"no folder at {path}; expected one that `time-jax export --onnx` "
      "wrote."
    )
  if not (path / "config.json").exists():
    raise UserError(
      explain_missing(path)
      or f"{path / 'config.json'} is missing; expected a folder that `time-jax "
      "export --onnx` wrote, such as the folder export in or beside this one."
    )
  config = json_file.read_json(path / "config.json")
  description, task = {}, VECTORS
  if fine_tuned.is_fine_tuned(path):
    description = fine_tuned.read_description(path)
    task = description["task"]
    longest = max(description["buckets"])
  else:
    longest = _longest(path, config)
  return Folder(
    path, task, description, _tokenizer(path, config), longest, int8
  )


def _tokenizer(path: Path, config: dict[str, Any]) -> TokenizerSpec:
  file, name = path / "tokenizer.json", f"the tokenizer in {path}"
  if not file.exists():
    raise UserError(f"{file} is missing; export the model again.")
  json_file.check_size(file)
  size, pad_id = config.get("vocab_size"), config.get("pad_token_id")
  if type(size) is not int:
    raise UserError(
      f"{path / 'config.json'}: vocab_size is {size!r:.20}; expected a number."
    )
  # The mask hides what is there, so that any id will do.
  pad_id = pad_id if type(pad_id) is int and 0 <= pad_id < size else 0
  try:
    text = file.read_text(encoding="utf-8")
  except (OSError, ValueError) as error:
    raise UserError(f"{file} cannot be read: {error}.") from error
  return TokenizerSpec(text, pad_id, size, name)


def _longest(path: Path, config: dict[str, Any]) -> int:
  """Returns how many tokens an encoder takes, special ones included."""
  limits = json_file.read_json_if_there(path / "tokenizer_config.json")
  for limit in (
    limits.get("model_max_length"),
    config.get("max_position_embeddings"),
  ):
    if type(limit) is int and 0 < limit <= _LARGEST_LIMIT:
      return limit
  raise UserError(
    f"{path / 'tokenizer_config.json'} has no model_max_length; expected how "
    "many tokens the model takes: export it again."
  )
