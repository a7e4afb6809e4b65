"""Reads the input of `predict` as it arrives: bytes in, sentences out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from time_jax.core.errors import UserError
from time_jax.evals.common.text_lines import LineParser, decode
from time_jax.evals.ner import iob, layouts
from time_jax.evals.ud import conllu

NAME = "input"  # in messages
_BLOCK = 1 << 20  # bytes at most; a terminal or a pipe gives what it has
_CONLLU_TABS = len(conllu.COLUMNS) - 2  # and more: a line of CoNLL-U
_ROWS = 3  # lines in a row that look like columns are not running text


class FormatChooser(Protocol):
  """Picks the parser of an input from its first lines, and prints which."""

  def add(self, number: int, text: str) -> LineParser | None:
    """Looks at the next line; returns None while the format is uncertain."""

  def end(self) -> LineParser:
    """Returns the parser of an input that has no more lines."""


def blocks(source: Any) -> Iterator[bytes]:
  """Yields what a buffered stream has, as soon as it has it."""
  return iter(lambda: source.read1(_BLOCK), b"")


def sentences(
  arriving: Iterable[bytes], choose: Callable[[], FormatChooser]
) -> Iterator[list[Any]]:
  """Yields sentences as soon as they are complete, those of a block together.

  Args:
    arriving: blocks of bytes, cut anywhere.
    choose: makes the chooser of the format.

  Raises:
    UserError: a line is malformed; all sentences before it were yielded.
  """
  complete: list[Any] = []
  try:
    for parsed in _parsed(arriving, choose()):
      if parsed is not None:
        complete += parsed
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
  seen = 0  # number of lines
  for lines in _lines(arriving):
    for number, text in decode(lines, NAME, "text", seen + 1):
      waiting.append((number, text))
      parser = parser or chooser.add(number, text)
      if parser:
        yield from (parser.feed(*line) for line in waiting)
        waiting = []
    seen += len(lines)
    yield None
  if any(text.strip() for _, text in waiting):
    parser = chooser.end()
  if parser:
    yield from (parser.feed(*line) for line in [*waiting, (0, "")])
    yield None


def _lines(arriving: Iterable[bytes]) -> Iterator[list[bytes]]:
  """Yields the lines that each block completes; at last the unfinished one."""
  rest = b""
  for block in arriving:
    *lines, rest = (rest + block).split(b"\n")
    if lines:
      yield lines
  if rest:
    yield [rest]


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
