"""Input of `predict` as it arrives: sentences out of blocks of bytes."""

import codecs
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from time_jax.core.errors import UserError
from time_jax.evals.common.lines import decode
from time_jax.evals.ner import iob, layouts
from time_jax.evals.ud import conllu

NAME = "input"  # in messages
_BLOCK = 1 << 20  # bytes at most; a terminal or a pipe gives what it has
_RUN = 3  # lines in a row that look like columns are no running text


class Format(NamedTuple):
  """How lines become sentences.

  Attributes:
    what: the format in words.
    parse: (lines, number of the first) -> sentences; a UserError may come
      behind those that are sound.
    counts: whether a line may hold a word: neither blank nor a comment.
    by_line: whether each line is a sentence; else a blank line ends one.
  """

  what: str
  parse: Callable[[Sequence[bytes], int], Iterable[Any]]
  counts: Callable[[bytes], bool]
  by_line: bool = False


class Chooser(Protocol):
  """Decides the format from the first lines, whatever blocks they come in."""

  def add(self, number: int, line: bytes) -> Format | None:
    """Looks at the next line; None: the format is not sure yet."""

  def end(self) -> Format:
    """The format of an input that has no more lines."""


def blocks(source: Any) -> Iterator[bytes]:
  """What a buffered stream has, as soon as it has it."""
  return iter(lambda: source.read1(_BLOCK), b"")


def _lines(arriving: Iterable[bytes]) -> Iterator[list[bytes]]:
  """The lines that every block completes; behind the last, what is left."""
  parts: list[bytes] = []
  for block in arriving:
    head, end, rest = block.rpartition(b"\n")
    if end:
      yield list(io.BytesIO(b"".join((*parts, head, end))))
      parts = []
    if rest:
      parts.append(rest)
  if parts:
    yield [b"".join(parts)]


def sentences(
  arriving: Iterable[bytes], choose: Callable[[], Chooser]
) -> Iterator[list[Any]]:
  """Sentences as soon as they are complete; none of an empty input.

  Every line is parsed once. The format is told when it is known.

  Args:
    arriving: blocks of bytes, cut anywhere.
    choose: makes what decides the format.

  Raises:
    UserError: names the line that is not of the format, behind all sentences
      before it.
  """
  chooser, chosen = choose(), None
  waiting: list[bytes] = []
  first = 1  # number of the first of them
  for lines in _lines(arriving):
    start = len(waiting)
    waiting += lines
    if first == 1 and not start:
      waiting[0] = waiting[0].removeprefix(codecs.BOM_UTF8)
    if chosen is None:
      chosen = _chosen(chooser, waiting, first, start)
      if chosen is None:
        continue
      start = 0
    ready = _ready(waiting, start, chosen)
    if ready:
      yield from _parsed(chosen, waiting[:ready], first)
      first, waiting = first + ready, waiting[ready:]
  if any(line.strip() for line in waiting):
    if chosen is None:
      chosen = chooser.end()
      iob.say(NAME, chosen.what)
    yield from _parsed(chosen, waiting, first)


def _chosen(
  chooser: Chooser, waiting: Sequence[bytes], first: int, start: int
) -> Format | None:
  """The format, if it is sure after the lines from `start` on."""
  for i in range(start, len(waiting)):
    if chosen := chooser.add(first + i, waiting[i]):
      iob.say(NAME, chosen.what)
      return chosen
  return None


def _ready(lines: Sequence[bytes], start: int, chosen: Format) -> int:
  """How many lines there are up to the end of the last whole sentence.

  Args:
    lines: complete ones.
    start: number of the first that is new; before it no sentence ends.
    chosen: the format.
  """
  if chosen.by_line:
    return len(lines)
  ends = (
    i + 1
    for i in range(len(lines) - 1, max(start, 1) - 1, -1)
    if not lines[i].strip() and chosen.counts(lines[i - 1])
  )
  return next(ends, 0)


def _parsed(
  chosen: Format, lines: Sequence[bytes], first: int
) -> Iterator[list[Any]]:
  """The sentences of some lines, then the error, if there is one."""
  found: list[Any] = []
  error: UserError | None = None
  if any(map(chosen.counts, lines)):
    try:
      for sentence in chosen.parse(lines, first):
        found.append(sentence)
    except UserError as caught:
      error = caught
  if found:
    yield found
  if error:
    raise error


def _is_text(line: bytes) -> bool:
  return bool(line.strip())


def _is_word(line: bytes) -> bool:
  """Of CoNLL-U, where every comment begins with #."""
  return _is_text(line) and not line.startswith(b"#")


def _is_conllu(line: bytes) -> bool:
  """Whether a line has tabs enough."""
  return line.count(b"\t") >= len(conllu.COLUMNS) - 2


class _Text:
  """A sentence a line, spaces between its words."""

  def __init__(self, make: Callable[[Sequence[str], str], Any]) -> None:
    self._make = make
    self._columns, self._run = 0, 0  # of the latest lines that look like rows

  def parse(self, lines: Sequence[bytes], first: int) -> Iterator[Any]:
    """The sentences of lines.

    Raises:
      UserError: several lines in a row have columns with tags.
    """
    for number, text in decode(lines, NAME, "text", first):
      if not text.strip():
        continue
      columns = layouts.tagged_columns(text)
      self._run = self._run + 1 if columns == self._columns else 1
      self._columns = columns
      if _is_conllu(text.encode()) or (columns and self._run >= _RUN):
        raise UserError(
          f"{NAME}:{number}: {text.strip()!r:.60} looks like columns of a "
          "token and its tags, but the lines before were read as running text, "
          "a sentence a line; expected one of both."
        )
      yield self._make(text.split(), f"{NAME}:{number}")


def _plain(make: Callable[[Sequence[str], str], Any]) -> Format:
  """Running text."""
  what = str(layouts.Layout(text=True))
  return Format(what, _Text(make).parse, _is_text, by_line=True)


class ChooseConllu:
  """CoNLL-U if the first line with a word has tabs enough, else plain text."""

  def add(self, number: int, line: bytes) -> Format | None:
    """See `Chooser`."""
    del number
    if _is_conllu(line):

      def parse(lines: Sequence[bytes], first: int) -> Iterable[Any]:
        return conllu.parse(lines, NAME, trees=False, first=first)

      return Format("CoNLL-U", parse, _is_word)
    return self.end() if _is_word(line) else None

  def end(self) -> Format:
    """See `Chooser`."""
    return _plain(conllu.make_sentence)


class ChooseTokens:
  """Columns, a token a line, or plain text; see `layouts.Guess`."""

  def __init__(self) -> None:
    self._guess = layouts.Guess(NAME)

  def add(self, number: int, line: bytes) -> Format | None:
    """See `Chooser`."""
    _, text = next(decode([line], NAME, "text", number))
    found = self._guess.add(number, text)
    return self._format(found) if found else None

  def end(self) -> Format:
    """See `Chooser`."""
    return self._format(self._guess.end())

  def _format(self, layout: layouts.Layout) -> Format:
    if layout.text:
      return _plain(iob.make_sentence)

    def parse(lines: Sequence[bytes], first: int) -> Iterator[Any]:
      numbered = decode(lines, NAME, iob.EXPECTED, first)
      return iob.sentences(numbered, NAME, layout)

    def counts(line: bytes) -> bool:
      text = line.decode("utf-8", "replace").rstrip("\r\n")
      return not (
        not text.strip() or layouts.is_boundary(text) or layout.is_comment(text)
      )

    return Format(str(layout), parse, counts)
