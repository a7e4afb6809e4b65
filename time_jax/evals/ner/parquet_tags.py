"""Reads parquet files of token classification, as dataset repositories have."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.ner import iob, layouts
from time_jax.evals.ner.iob import Sentence

_COLUMNS = ("tokens", "ner_tags")
_EXPECTED = (
  "lists of words in a column `tokens`, and in `ner_tags` as many IOB2 tags "
  "(O, B-TYPE, I-TYPE), or numbers that the metadata of the file names"
)


def read(path: pathlib.Path) -> list[Sentence]:
  """Returns the sentences of a file, in the form of IOB2 lines.

  An I- that no entity precedes becomes B-, as scorers take it by default. Rows
  without words are left out.

  Raises:
    UserError: the file is missing, or has no words and tags.
  """
  import pyarrow.parquet  # It is heavy, and only this format needs it.

  try:
    table = pyarrow.parquet.read_table(path)
  except FileNotFoundError:
    raise UserError(f"no file at {path}; expected parquet.") from None
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(f"{path} is not readable parquet: {error}.") from error
  if missing := set(_COLUMNS) - set(table.column_names):
    raise UserError(
      f"{path} has no column {' or '.join(sorted(missing))}, but "
      f"{', '.join(table.column_names)}; expected {_EXPECTED}."
    )
  for name in _COLUMNS:
    if not hasattr(table[name].type, "value_type"):  # Only lists have one.
      raise UserError(
        f"{path}: the column {name} is of type {table[name].type}; expected "
        f"{_EXPECTED}."
      )
  names = _class_names(table.schema.metadata or {})
  sentences: list[Sentence] = []
  columns = (table[name].to_pylist() for name in _COLUMNS)
  for row, (tokens, numbers) in enumerate(zip(*columns, strict=True)):
    words, tags = [], []
    for i, pair in enumerate(
      itertools.zip_longest(tokens or (), numbers or ())
    ):
      word, tag = pair[0], _tag(pair[1], names)
      if not isinstance(word, str) or not tag:
        raise UserError(
          f"{path}: row {row}: word {i} is {word!r:.40} with the tag "
          f"{pair[1]!r:.40}; expected {_EXPECTED} ({len(names)} here)."
        )
      # White space inside of a word would be taken for the next column.
      words.append("_".join(word.split()) or layouts.EMPTY)
      tags.append(tag)
    if words and words != [layouts.BOUNDARY]:
      sentence = iob.make_sentence(words, str(path)).with_tags(iob.repair(tags))
      places = (row,) * len(words)
      sentences.append(dataclasses.replace(sentence, numbers=places))
  if not sentences:
    raise UserError(f"{path}: no sentence in this file; expected {_EXPECTED}.")
  return sentences


def _tag(tag: Any, names: Sequence[str]) -> str:
  """Returns a tag, given as text or as its number; empty: it is neither."""
  if isinstance(tag, int) and 0 <= tag < len(names):
    tag = names[tag]
  return tag if isinstance(tag, str) and layouts.TAG.fullmatch(tag) else ""


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
  """Returns the names of tags that the library `datasets` writes, if any."""
  try:
    info = json.loads(metadata.get(b"huggingface", b"{}"))
    return info["info"]["features"]["ner_tags"]["feature"]["names"]
  except (ValueError, KeyError, TypeError):
    return []
