"""Parquet files of token classification, as dataset repositories have them."""

import dataclasses
import json
import pathlib
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.ner import iob, layouts
from time_jax.evals.ner.iob import Sentence

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
  found: list[Sentence] = []
  columns = (table[name].to_pylist() for name in ("tokens", "ner_tags"))
  for row, (words, tags) in enumerate(zip(*columns, strict=True)):
    place = f"{path}: row {row}"
    _check(words, tags, place)
    if not words or words == [layouts.BOUNDARY]:
      continue
    # White space inside of a word would be taken for the next column.
    words = tuple("_".join(word.split()) or iob.EMPTY for word in words)
    tags = iob.repair(_tag(tag, names, place) for tag in tags)
    sentence = iob.make_sentence(words, str(path)).with_tags(tags)
    found.append(dataclasses.replace(sentence, numbers=(row,) * len(words)))
  if not found:
    raise UserError(f"{path}: no sentence in this file; expected {_EXPECTED}.")
  return found


def _check(words: Any, tags: Any, place: str) -> None:
  """UserError for a row without as many words as tags."""
  for name, values in (("tokens", words), ("ner_tags", tags)):
    if not isinstance(values, list):
      raise UserError(
        f"{place}: {name} is {_shown(values)}; expected {_EXPECTED}."
      )
  for word in words:
    if not isinstance(word, str):
      raise UserError(
        f"{place}: a token is {_shown(word)}; expected {_EXPECTED}."
      )
  if len(words) != len(tags):
    raise UserError(f"{place} has {len(words)} words and {len(tags)} tags.")


def _shown(value: Any) -> str:
  return "missing (null)" if value is None else f"{value!r:.40}"


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
    if not layouts.TAG.fullmatch(tag):
      raise UserError(
        f"{place}: the tag is {tag!r}, expected O, B-TYPE or I-TYPE (IOB2)."
      )
    return tag
  if tag is None:
    raise UserError(f"{place}: a tag is missing (null); expected {_EXPECTED}.")
  if not isinstance(tag, int) or not 0 <= tag < len(names):
    raise UserError(
      f"{place}: the tag {tag!r} has no name, there are {len(names)}; expected "
      f"{_EXPECTED}."
    )
  return _tag(names[tag], [], place)
