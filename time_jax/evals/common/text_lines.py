"""Reads lines of annotated text, with errors that name file and line."""

import gzip
import itertools
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from time_jax.core.errors import UserError
from time_jax.core.storage.text_encoding import check_nul, check_start

_MAX_BYTES = 512 << 20  # of a file, unpacked
_MAX_PROBLEMS = 10  # in a message


class LineParser(Protocol):
  """Turns lines into items, such as sentences."""

  def feed(self, number: int, text: str) -> list[Any]:
    """Takes the next line and returns the items that it completes.

    Args:
      number: number of the line in its file, from 1.
      text: the line without its end; an empty one ends the last item.

    Raises:
      UserError: the line, or the item that it completes, is malformed.
    """


class Problems:
  """Collects errors, in order to report up to ten of them at once."""

  def __init__(self) -> None:
    self._messages: list[str] = []

  def add(self, problem: UserError | str) -> None:
    """Adds an error; raises UserError with all of them at the tenth."""
    self._messages.append(str(problem))
    if len(self._messages) == _MAX_PROBLEMS:
      self._messages.append(f"These are the first {_MAX_PROBLEMS}.")
      self.raise_all()

  def raise_all(self) -> None:
    """Raises UserError with all errors, if there are any."""
    if self._messages:
      raise UserError(" ".join(self._messages)) from None


def read_bytes(path: pathlib.Path, expected: str) -> bytes:
  """Reads a whole file, plain or .gz.

  Args:
    path: path of the file.
    expected: what the file should hold, for messages.

  Raises:
    UserError: the file is missing, damaged, or larger than 512 MiB.
  """
  opener = gzip.open if path.suffix == ".gz" else open
  try:
    with opener(path, "rb") as file:
      data = file.read(_MAX_BYTES + 1)
  except FileNotFoundError:
    raise UserError(f"no file at {path}; expected {expected}.") from None
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path} cannot be read: {error}.") from error
  if len(data) > _MAX_BYTES:
    raise UserError(
      f"{path} has more than {_MAX_BYTES:,} bytes; expected {expected}, as a "
      "file that is read whole."
    )
  return data


def decode(
  lines: Iterable[bytes], name: str, expected: str, first: int = 1
) -> Iterator[tuple[int, str]]:
  """Yields lines as (number, text without the line end).

  Args:
    lines: undecoded lines.
    name: what messages call the file.
    expected: what the lines should hold, for messages.
    first: number of the first line.

  Raises:
    UserError: a line is not UTF-8, not text, or has a carriage return inside.
  """
  for number, line in enumerate(lines, first):
    if number == 1:
      check_start(line, name)
    if b"\0" in line:
      check_nul(line, f"{name}:{number}")
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
      raise UserError(
        f"{name}:{number}: not UTF-8 at byte {error.start + 1} of the line; "
        f"expected {expected} in UTF-8."
      ) from None
    text = text.rstrip("\r\n")
    if "\r" in text:
      raise UserError(
        f"{name}:{number}: a carriage return (\\r) within the line; expected "
        "lines that end with \\n or \\r\\n. Convert line ends first, such as "
        "with `tr '\\r' '\\n'`."
      )
    yield number, text


def parse_lines(
  parser: LineParser, lines: Iterable[tuple[int, str]]
) -> list[Any]:
  """Returns all items of the lines of a file.

  Args:
    parser: a new parser.
    lines: decoded lines with their numbers.

  Raises:
    UserError: lines are malformed; names up to ten of them.
  """
  items, problems = [], Problems()
  for number, text in itertools.chain(lines, [(0, "")]):
    try:
      items += parser.feed(number, text)
    except UserError as error:
      problems.add(error)
  problems.raise_all()
  return items
