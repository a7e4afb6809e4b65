"""The text in a record, and the count of records without text."""

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

from time_jax.core import errors

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Tally:
  """Counts the records of a stream of documents, and limits the bad ones.

  Attributes:
    max_bad_records: one more bad record than this ends the stream.
    documents: documents handed out.
    empty_documents: documents of whitespace only, left out.
    bad_records: lines, records or files that could not be read, left out.
    text_bytes: UTF-8 bytes of the documents handed out.
  """

  max_bad_records: int = 100
  documents: int = 0
  empty_documents: int = 0
  bad_records: int = 0
  text_bytes: int = 0

  def bad(self, where: str, why: str) -> None:
    """Counts a bad record: a warning, or an error beyond the limit."""
    self.bad_records += 1
    if self.bad_records > self.max_bad_records:
      raise errors.UserError(
        f"{where}: {why}; this is bad record {self.bad_records}, expected at "
        f"most max_bad_records={self.max_bad_records}; repair the text or "
        "raise the limit"
      )
    count = f"bad record {self.bad_records} of at most {self.max_bad_records}"
    _logger.warning("%s: %s; skipped (%s)", where, why, count)


class BadRecordError(Exception):
  """A record without usable text; its message says why."""


class MissingFieldError(BadRecordError):
  """A record without the field that should hold its text."""


def check_field(records: Iterable[Any], field: str, where: str) -> list[Any]:
  """Reports a wrong field once, instead of for each record.

  Args:
    records: the first ones of a source.
    field: name of the field with the text, see `text_of`.
    where: name of the source, for messages.

  Returns:
    The records that were looked at, up to the first that has the field.

  Raises:
    UserError: none of the records has the field.
  """
  seen, missing = [], []
  for record in records:
    seen.append(record)
    try:
      text_of(record, field)
      return seen
    except MissingFieldError as error:
      missing.append(str(error))
    except BadRecordError:
      continue
  if missing:
    raise errors.UserError(
      f"{where}: {missing[0]}; expected the name of the field with the text "
      "after the # of the source"
    )
  return seen


def text_of(record: Any, field: str) -> str:
  """Returns the text in a field of a record; a null is an empty text.

  Args:
    record: what was read.
    field: name of the field; dots lead into nested records.

  Raises:
    BadRecordError: the record has no such field, or no text in it.
  """
  if not isinstance(record, dict):
    raise BadRecordError(f"found {type(record).__name__}, expected an object")
  value = record[field] if field in record else _nested(record, field)
  if value is None:
    return ""
  try:
    if isinstance(value, bytes):
      return value.decode("utf-8")
    if isinstance(value, str):
      value.encode("utf-8")  # JSON escapes can hide half of a character.
      return value
  except UnicodeError:
    raise BadRecordError(f"field {field!r} is invalid UTF-8") from None
  kind = type(value).__name__
  raise BadRecordError(f"field {field!r} is {kind}, expected text")


def _nested(record: dict[str, Any], field: str) -> Any:
  value: Any = record
  for part in field.split("."):
    if value is None:
      return None
    if not isinstance(value, dict) or part not in value:
      names = ", ".join(map(str, record)) or "none"
      raise MissingFieldError(f"no field {field!r} (fields: {names})")
    value = value[part]
  return value
