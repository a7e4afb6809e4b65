"""A teacher that is named by its folder or id: how to distil it."""

import dataclasses
import math
import pathlib

from time_jax.catalog import teachers
from time_jax.catalog.teachers import Recommendation
from time_jax.hf import files, load

_MOST_HEADS = 64  # as of the recommended teachers
_TRIMMED = "trim.json"  # What `trim` leaves in a teacher's folder.


def is_place(name: str) -> bool:
  """Whether a user names a teacher by where it is, not by its short name."""
  folder = pathlib.Path(name).expanduser()
  return "/" in name or name.startswith("package:") or folder.is_dir()


def own_teacher(path: str, hidden_size: int) -> Recommendation:
  """How to distil a checkpoint, as far as its config.json tells.

  The layer is the recommended one where the checkpoint is, or was made by
  `trim` of, one of those in teachers.tsv; else the last. R is the largest up to
  64 that divides all widths.

  Args:
    path: see `files.resolve`.
    hidden_size: of the student.

  Raises:
    UserError: there is no such model, or of an unknown architecture.
  """
  local = pathlib.Path(path).expanduser().is_dir()
  known = None if local else teachers.recommended(path)
  if known:
    return dataclasses.replace(known, path=path)
  folder = files.resolve(path)
  _, config = load.read_config(folder)
  if (folder / _TRIMMED).exists():
    record = files.read_json(folder / _TRIMMED)
    known = teachers.recommended(str(record.get("teacher")))
  last = config.num_layers
  common = math.gcd(hidden_size, *config.widths.values())
  return Recommendation(
    name=path,
    path=path,
    family=str(files.model_config(folder).get("model_type")),
    num_layers=last,
    width=config.widths["query"],
    key_width=config.widths["key"],
    num_heads=config.widths["query"] // config.head_dim,
    vocab_size=config.vocab_size,
    layer=known.layer if known and known.num_layers == last else last,
    relation_heads=max(
      heads for heads in range(1, _MOST_HEADS + 1) if common % heads == 0
    ),
    languages=(),
    unchecked=frozenset(),
  )
