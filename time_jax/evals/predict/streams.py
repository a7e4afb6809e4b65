"""Reads the input of `predict` as it arrives: bytes in, items out."""

import codecs
import contextlib
import itertools
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from time_jax.core.errors import UserError, explain_refusal
from time_jax.evals.common.text_lines import LineParser, decode
from time_jax.evals.ner import iob, layouts
from time_jax.evals.qa import squad
from time_jax.evals.ud import conllu

NAME = "input"  # in messages
_BLOCK = 1 << 20  # bytes at most; a terminal or a pipe gives what it has
_LONGEST = 1_000_000  # characters of a sentence and what stands before it
_UTF8 = 4  # bytes of a character at most
_CONLLU_TABS = len(conllu.COLUMNS) - 2  # and more: a line of CoNLL-U
_ROWS = 3  # lines in a row that look like columns are not running text


class FormatChooser(Protocol):
  """Picks the parser of an input from its first lines, and prints which."""

  def add(self, number: int, text: str) -> LineParser | None:
    """Looks at the next line; returns None while the format is uncertain."""

  def end(self) -> LineParser:
    """Returns the parser of an input that has no more lines."""


def blocks(source: Any) -> Iterator[bytes]:
  """Yields what a stream has, as soon as it has it.

  Args:
    source: a binary stream. A buffered one is read below its buffer, on which
      a thread that still reads would hold a lock as the process ends.

  Raises:
    UserError: it cannot be read.
  """
  read = source.raw.read if hasattr(source, "raw") else source.read1
  try:
    while (block := read(_BLOCK)) != b"":
      if block is None:  # It has nothing yet, and is one that does not wait.
        select.select([source], [], [])
      else:
        yield block
  except OSError as error:
    raise UserError(
      f"the {NAME} cannot be read: {explain_refusal(error)}; expected a file "
      "or a pipe, as in `predict MODEL < text`."
    ) from error


def sentences(
  arriving: Iterable[bytes], choose: Callable[[], FormatChooser]
) -> Iterator[list[Any]]:
  """Yields sentences as soon as they are complete, those of a block together.

  Args:
    arriving: blocks of bytes, cut anywhere.
    choose: makes the chooser of the format.

  Raises:
    UserError: a line is malformed, or no sentence ends within a million
      characters; all sentences before were yielded.
  """
  return _together(_parsed(arriving, choose()))


def questions(arriving: Iterable[bytes]) -> Iterator[list[Any]]:
  """Yields questions as soon as they are there, those of a block together.

  Those in the layout of SQuAD are one object, which only its end completes.

  Args:
    arriving: blocks of bytes, cut anywhere.

  Raises:
    UserError: the input is malformed; all questions on the lines before were
      yielded.
  """
  return _together(_parsed_questions(arriving))


def _together(parsed: Iterable[list[Any] | None]) -> Iterator[list[Any]]:
  """Yields what is parsed between one None and the next, or an error."""
  complete: list[Any] = []
  try:
    for some in parsed:
      if some is not None:
        complete += some
      elif complete:
        yield complete
        complete = []
  except UserError:
    if complete:
      yield complete
    raise


def _parsed(
  arriving: Iterable[bytes], chooser: FormatChooser
) -> Iterator[list[Any] | None]:
  """Yields the sentences that each line completes, and None after a block."""
  parser: LineParser | None = None
  waiting: list[tuple[int, str]] = []  # lines that no parser has seen
  held = 0  # characters since a sentence was complete
  try:
    for lines in _decoded(arriving):
      for number, text in lines:
        held += len(text) + 1
        if held > _LONGEST:
          raise _too_long(number)
        if parser:
          if complete := parser.feed(number, text):
            held = 0
            yield complete
          continue
        parser = chooser.add(number, text)
        waiting.append((number, text))
        if parser:
          yield from itertools.starmap(parser.feed, waiting)
          waiting, held = [], 0
      yield None
  except UserError as error:
    if parser or not (lost := sum(bool(text.strip()) for _, text in waiting)):
      raise
    raise UserError(
      f"{error} Lines before it that are not answered, since they did not "
      f"tell yet what the input is: {lost}."
    ) from None
  if any(text.strip() for _, text in waiting):
    parser = chooser.end()
  if parser:
    yield from itertools.starmap(parser.feed, [*waiting, (0, "")])
    yield None


def _decoded(
  arriving: Iterable[bytes],
) -> Iterator[Iterable[tuple[int, str]]]:
  """Yields the lines that each block completes, with their numbers."""
  seen = 0  # number of lines
  for data in _whole_lines(arriving, most=_UTF8 * _LONGEST):
    yield _numbered(data, seen + 1)
    seen += data.count(b"\n") + 1


def _numbered(data: bytes, first: int) -> Iterable[tuple[int, str]]:
  """Decodes lines, all at once if there is nothing but plain text in them."""
  marks = b"\r" in data or b"\0" in data or data.startswith(codecs.BOM_UTF8)
  if not marks:
    with contextlib.suppress(UnicodeDecodeError):
      return enumerate(data.decode().split("\n"), first)
  return decode(data.split(b"\n"), NAME, "text", first)


def _whole_lines(
  arriving: Iterable[bytes], most: int | None = None
) -> Iterator[bytes]:
  """Yields the lines that each block completes, without the end of the last.

  At last comes the line that has no end.

  Args:
    arriving: blocks of bytes, cut anywhere.
    most: bytes of a line at most; None: any number.
  """
  parts: list[bytes] = []  # of a line without its end
  size = seen = 0
  for block in arriving:
    head, end, rest = block.rpartition(b"\n")
    if end:
      yield b"".join([*parts, head])
      seen += block.count(b"\n")
      parts, size = [], 0
    parts.append(rest)
    size += len(rest)
    if most and size > most:
      raise _too_long(seen + 1)
  if size:
    yield b"".join(parts)


def _too_long(number: int) -> UserError:
  return UserError(
    f"{NAME}:{number}: no sentence ends within {_LONGEST:,} characters, the "
    "most that is read as one; expected a sentence a line (lines end with "
    "\\n), or an empty line after the tokens of each. Split the text into "
    "sentences."
  )


def _parsed_questions(
  arriving: Iterable[bytes],
) -> Iterator[list[Any] | None]:
  """Yields the questions that each line completes, and None after a block."""
  pieces, blank = _whole_lines(arriving), []
  for first in pieces:
    if first.strip():
      break
    blank.append(first)
  else:
    return
  start = b"\n".join([*blank, first])
  if not squad.begins_lines(start):
    yield squad.parse(b"\n".join([start, *pieces]), NAME)
    yield None
    return
  parser = squad.QuestionParser(NAME)
  for piece in itertools.chain([start], pieces):
    yield from map(parser.feed, (piece + b"\n").splitlines())
    yield None


class ChooseConllu:
  """CoNLL-U if the first line with a word has enough tabs, else plain text."""

  def add(self, number: int, text: str) -> LineParser | None:
    """See `FormatChooser`."""
    del number
    if text.count("\t") >= _CONLLU_TABS:
      iob.print_layout(NAME, "CoNLL-U")
      return conllu.SentenceParser(NAME, trees=False)
    return self.end() if text.strip() and not text.startswith("#") else None

  def end(self) -> LineParser:
    """See `FormatChooser`."""
    iob.print_layout(NAME, layouts.Layout(text=True))
    return _TextParser(conllu.make_sentence)


class ChooseTokens:
  """Columns, a token a line, or plain text; see `layouts.LayoutGuess`."""

  def __init__(self) -> None:
    self._guess = layouts.LayoutGuess(NAME)

  def add(self, number: int, text: str) -> LineParser | None:
    """See `FormatChooser`."""
    layout = self._guess.add(number, text)
    return self._parser(layout) if layout else None

  def end(self) -> LineParser:
    """See `FormatChooser`."""
    return self._parser(self._guess.end())

  def _parser(self, layout: layouts.Layout) -> LineParser:
    iob.print_layout(NAME, layout)
    if layout.text:
      return _TextParser(iob.make_sentence)
    return iob.SentenceParser(NAME, layout)


class _TextParser:
  """Parses running text: a sentence a line, spaces between its words."""

  def __init__(self, make: Callable[[Sequence[str], str], Any]) -> None:
    self._make = make
    self._columns = 0  # of the latest lines, if they look like columns
    self._rows = 0  # of these lines

  def feed(self, number: int, text: str) -> list[Any]:
    if not text.strip():
      return []
    columns = layouts.tagged_columns(text)
    self._rows = self._rows + 1 if columns == self._columns else 1
    self._columns = columns
    looks_like_rows = columns and self._rows >= _ROWS
    if looks_like_rows or text.count("\t") >= _CONLLU_TABS:
      raise UserError(
        f"{NAME}:{number}: {text.strip()!r:.60} looks like columns of a token "
        "and its tags, but the lines before were read as running text, a "
        "sentence a line; expected one of both."
      )
    return [self._make(text.split(), f"{NAME}:{number}")]
