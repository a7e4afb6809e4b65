"""What lies beside the files of transformers in a fine-tuned model's folder."""

from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage import json_file
from time_jax.core.storage.atomic_folder import explain_missing
from time_jax.core.storage.paths import Path

DESCRIPTION = "task.json"
HEADS = "heads.safetensors"  # where no class of transformers has them
FORMAT = 2  # of task.json; 1, which had no number, knew encoder/ alone


def is_fine_tuned(folder: Path) -> bool:
  """Returns whether a folder is a fine-tuned model's."""
  return (folder / DESCRIPTION).exists()


def read_description(folder: Path) -> dict[str, Any]:
  """Returns the content of task.json.

  Raises:
    UserError: the folder is not that of a fine-tuned model.
  """
  path = folder / DESCRIPTION
  if not path.exists():
    raise UserError(
      explain_missing(folder)
      or f"{folder} holds no {DESCRIPTION}; expected the folder of a "
      "fine-tuned model, such as WORKDIR/seed-0/model of `time_jax finetune`."
    )
  description = json_file.read_json(path)
  missing = {"task", "heads", "classes", "buckets"} - set(description)
  if missing:
    raise UserError(
      f"{path} lacks {', '.join(sorted(missing))}; fine-tune again."
    )
  if (number := description.get("format", 1)) not in range(1, FORMAT + 1):
    raise UserError(
      f"{path} is of format {number!r:.20}, and this time_jax reads formats 1 "
      f"to {FORMAT}; expected a newer time_jax: update it."
    )
  if not isinstance(description["task"], str):
    raise UserError(
      f"{path}: task is {description['task']!r:.60}; expected a name, such as "
      '"ner": fine-tune again.'
    )
  lengths = description["buckets"]
  if (
    not isinstance(lengths, list)
    or not lengths
    or not all(isinstance(length, int) and length > 0 for length in lengths)
  ):
    raise UserError(
      f"{path}: buckets is {lengths!r:.60}; expected lengths in tokens, such "
      "as [32, 64]: fine-tune again."
    )
  classes = description["classes"]
  if not isinstance(classes, dict) or not all(map(_is_names, classes.values())):
    raise UserError(
      f"{path}: classes is {classes!r:.60}; expected lists of names, such as "
      '{"TAG": ["O", "B-PER"]}: fine-tune again.'
    )
  return description


def _is_names(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)
