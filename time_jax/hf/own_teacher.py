"""A teacher that a user names by its folder or hub id: how to distil it."""

import dataclasses
import math
from typing import Any

from time_jax.catalog import teachers
from time_jax.catalog.teachers import Recommendation
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import files, load, model_identity
from time_jax.hf.lineage import TRIM_RECORD

_MOST_HEADS = 64  # of the recommended teachers
_POSITIONS = 512  # of students


def is_place(name: str) -> bool:
  """Returns whether a name is a folder or id rather than a short name."""
  folder = Path(name).expanduser()
  return "/" in name or name.startswith("package:") or folder.is_dir()


def own_teacher(path: str, hidden_size: int) -> Recommendation:
  """Recommends how to distil a checkpoint, as far as its config.json tells.

  The layer is the recommended one where the checkpoint is in teachers.tsv, or
  was trimmed from a teacher in there; else the last. R is the largest up to 64
  that divides all widths.

  Args:
    path: a folder, package or hub id, see `files.resolve`.
    hidden_size: hidden size of the student.

  Raises:
    UserError: there is no such model, or its architecture is unknown.
  """
  local = Path(path).expanduser().is_dir()
  known = None if local else teachers.recommended(path)
  if known:
    return dataclasses.replace(known, path=path)
  folder = files.resolve(path)
  _, config = load.read_config(folder)
  if record := json_file.read_json_if_there(folder / TRIM_RECORD):
    known = teachers.recommended(str(record.get("teacher")))
  family = str(files.model_config(folder).get("model_type"))
  last = config.num_layers
  common = math.gcd(hidden_size, *config.widths.values())
  return Recommendation(
    name=path,
    path=path,
    family=family,
    num_layers=last,
    width=config.widths["query"],
    key_width=config.widths["key"],
    num_heads=config.widths["query"] // config.head_dim,
    vocab_size=config.vocab_size,
    layer=known.layer if known and known.num_layers == last else last,
    relation_heads=max(
      heads for heads in range(1, _MOST_HEADS + 1) if common % heads == 0
    ),
    copyable=family in teachers.LIKE_STUDENTS and _has_usual_sizes(config),
    languages=(),
    unchecked=frozenset(),
  )


def _has_usual_sizes(config: Any) -> bool:
  """Returns whether students have all that such a network has, but for width.

  Args:
    config: of the family BERT.
  """
  return (
    model_identity.is_student(config)
    and config.intermediate_size == 4 * config.hidden_size
    and config.max_positions >= _POSITIONS
  )
