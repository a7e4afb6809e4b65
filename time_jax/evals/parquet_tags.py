"""Parquet files of token classification, as dataset repositories have them."""

import json
import pathlib
from typing import Any

from time_jax.errors import UserError
from time_jax.evals import iob
from time_jax.evals.iob import Sentence

_EXPECTED = (
  "lists of words in a column `tokens`, and in `ner_tags` of IOB2 tags, or of "
  "numbers that the metadata of the file names"
)


def read(path: pathlib.Path) -> list[Sentence]:
  """The sentences of a file, in the form of IOB2 lines.

  An I- that no entity precedes becomes B-, as scorers take it by default. Rows
  without words are left out.

  Raises:
    UserError: no such file, or without words and tags.
  """
  import pyarrow.parquet  # Heavy, for this format only.

  try:
    table = pyarrow.parquet.read_table(path)
  except FileNotFoundError:
    raise UserError(f"no file at {path}; expected parquet.") from None
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} is not readable parquet: {error}.") from error
  if missing := {"tokens", "ner_tags"} - set(table.column_names):
    raise UserError(
      f"{path} has no column {' or '.join(sorted(missing))}, but "
      f"{', '.join(table.column_names)}; expected {_EXPECTED}."
    )
  names = _names(table.schema.metadata or {})
  lines: list[bytes] = []
  columns = (table[name].to_pylist() for name in ("tokens", "ner_tags"))
  for row, (words, tags) in enumerate(zip(*columns, strict=True)):
    if len(words) != len(tags):
      raise UserError(
        f"{path}: row {row} has {len(words)} words and {len(tags)} tags."
      )
    tags = iob.repair(_tag(tag, names, f"{path}: row {row}") for tag in tags)
    # White space inside of a word would be taken for the next column.
    pairs = zip(("_".join(w.split()) or "_" for w in words), tags, strict=True)
    lines += [f"{word}\t{tag}\n".encode() for word, tag in pairs]
    lines.append(b"\n")
  return iob.parse(lines, str(path))


def _names(metadata: dict[bytes, bytes]) -> list[str]:
  """Of the classes, from what `datasets` writes; empty: it did not."""
  try:
    info = json.loads(metadata.get(b"huggingface", b"{}"))
    feature = info["info"]["features"]["ner_tags"]
    return feature["feature"]["names"]
  except (ValueError, KeyError, TypeError):
    return []


def _tag(tag: Any, names: list[str], place: str) -> str:
  if isinstance(tag, str):
    return tag
  if not isinstance(tag, int) or not 0 <= tag < len(names):
    raise UserError(
      f"{place}: the tag {tag!r} has no name, there are {len(names)}; expected "
      f"{_EXPECTED}."
    )
  return names[tag]
