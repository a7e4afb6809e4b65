"""Input of `predict` as it arrives: sentences out of blocks of bytes."""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from time_jax.evals import conllu, iob
from time_jax.evals.lines import decode

_BLOCK = 1 << 20  # bytes at most; a terminal or a pipe gives what it has


class Format(NamedTuple):
  """How lines become sentences.

  Attributes:
    parse: (lines, name of the input, first=number of the first) -> sentences.
    counts: whether a line may hold a word: neither blank nor a comment.
    by_line: whether each line is a sentence; else a blank line ends one.
  """

  parse: Callable[..., list[Any]]
  counts: Callable[[bytes], bool]
  by_line: bool = False


# Complete lines, and whether the input has ended -> the format, once known.
Choose = Callable[[Sequence[bytes], bool], Format | None]


def blocks(source: Any) -> Iterator[bytes]:
  """What a buffered stream has, as soon as it has it."""
  return iter(lambda: source.read1(_BLOCK), b"")


def sentences(arriving: Iterable[bytes], choose: Choose) -> Iterator[list[Any]]:
  """Sentences as soon as they are complete; none of an empty input.

  Args:
    arriving: blocks of bytes, cut anywhere.
    choose: the format.

  Raises:
    UserError: names the line that is not of the format.
  """
  lines: list[bytes] = []
  first, chosen = 1, None
  for block in itertools.chain(arriving, [None]):
    if block is not None:
      last = b"".join(lines[-1:])  # which may go on
      lines = [*lines[:-1], *io.BytesIO(last + block)]
    complete = lines
    if block is not None and not block.endswith(b"\n"):
      complete = lines[:-1]
    chosen = chosen or choose(complete, block is None)
    if chosen is None:
      continue
    ready = complete
    if block is not None and not chosen.by_line:
      ready = complete[: _end_of_sentence(complete, chosen.counts)]
    if any(map(chosen.counts, ready)):
      yield chosen.parse(ready, "input", first=first)
      first += len(ready)
      lines = lines[len(ready) :]


def _end_of_sentence(
  lines: Sequence[bytes], counts: Callable[[bytes], bool]
) -> int:
  """How many lines there are up to the last blank one behind a word."""
  ends = (
    i + 1
    for i in range(len(lines) - 1, 0, -1)
    if not lines[i].strip() and counts(lines[i - 1])
  )
  return next(ends, 0)


def _is_text(line: bytes) -> bool:
  return bool(line.strip())


def _is_word(line: bytes) -> bool:
  """Of CoNLL-U, where every comment begins with #."""
  return _is_text(line) and not line.startswith(b"#")


def _is_token(line: bytes) -> bool:
  """Of tokens, where # may be one, or begin one."""
  return _is_text(line) and not (line.startswith(b"# ") and b"\t" not in line)


def _plain(make: Callable[[Sequence[str], str], Any]) -> Format:
  """A sentence a line, spaces between its words."""

  def parse(lines: Iterable[bytes], name: str, *, first: int) -> list[Any]:
    return [
      make(text.split(), f"{name}:{number}")
      for number, text in decode(lines, name, "text", first)
      if text.strip()
    ]

  return Format(parse, _is_text, by_line=True)


def choose_conllu(lines: Sequence[bytes], ended: bool) -> Format | None:
  """CoNLL-U if a line has tabs enough, else plain text."""
  if any(line.count(b"\t") >= len(conllu.COLUMNS) - 2 for line in lines):

    def parse(lines: Iterable[bytes], name: str, *, first: int) -> list[Any]:
      return conllu.parse(lines, name, trees=False, first=first)

    return Format(parse, _is_word)
  if ended or any(map(_is_word, lines)):
    return _plain(conllu.make_sentence)
  return None


def choose_tokens(lines: Sequence[bytes], ended: bool) -> Format | None:
  """A token a line if there are tabs, or no line has several words.

  Between the words of a text may be tabs, too: then a line without has several
  words, or every line has several before its tab.
  """
  texts = [text for _, text in decode(lines, "input", "text") if text.strip()]
  rows = [text for text in texts if "\t" in text]
  others = [t for t in texts if "\t" not in t and not (rows and t[:2] == "# ")]
  alone = all(len(text.split()) == 1 for text in others)
  if rows:
    alone = alone and any(" " not in row.partition("\t")[0] for row in rows)
  if alone and (rows or ended):
    tagged = bool(rows) and all(map(iob.is_tagged, rows))

    def parse(lines: Iterable[bytes], name: str, *, first: int) -> list[Any]:
      return iob.parse(lines, name, tagged=tagged, first=first)

    return Format(parse, _is_token)
  if ended or (not alone and any(map(_is_token, lines))):
    return _plain(iob.make_sentence)
  return None
