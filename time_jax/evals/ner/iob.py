"""Reads and writes IOB2: a token and its tag a line, sentences end blank.

`token<TAB>tag`, or columns with tabs or spaces between them as in CoNLL-2003:
the first is the token, the last the tag. A tag is O, B-TYPE (an entity begins)
or I-TYPE (it continues); a file in IOB1, where B- only separates two entities,
is read as IOB2. What stands before the tag is kept as it is. A line -DOCSTART-
ends a document and is no token.

How lines are read is decided once for a file, see `layouts`, and printed.
"""

import dataclasses
import io
import itertools
import pathlib
from collections.abc import Iterable, Sequence

from time_jax.core.errors import UserError
from time_jax.core.notes import say
from time_jax.evals.common.text_lines import (
  Problems,
  decode,
  parse_lines,
  read_bytes,
)
from time_jax.evals.ner.layouts import (
  OUTSIDE,
  TAG,
  Layout,
  LayoutGuess,
  is_boundary,
)

EXPECTED = "an IOB2 file (a token, a tab and its tag a line)"


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One sentence of a file.

  Attributes:
    comments: the lines without tokens before it: those that start with "# ",
      marks between documents, and empty ones after the first empty one.
    words: its tokens.
    before: for each word, its line up to the tag.
    tags: the tag of each word; empty where there are none yet.
    numbers: numbers of the words' lines in the file, from 1.
    name: what messages call the file.
  """

  comments: tuple[str, ...]
  words: tuple[str, ...]
  before: tuple[str, ...]
  tags: tuple[str, ...]
  numbers: tuple[int, ...]
  name: str

  def place(self, word: int) -> str:
    """Returns FILE:LINE of a word, counted from 0."""
    return f"{self.name}:{self.numbers[word]}"

  def with_tags(self, tags: Sequence[str]) -> "Sentence":
    """Replaces the tags."""
    return dataclasses.replace(self, tags=tuple(tags))


def make_sentence(words: Sequence[str], name: str = "text") -> Sentence:
  """Makes a sentence of which only the words are known."""
  before = tuple(f"{word}\t" for word in words)
  numbers = tuple(range(1, len(words) + 1))
  return Sentence((), tuple(words), before, (), numbers, name)


def read(path: pathlib.Path) -> list[Sentence]:
  """Reads an annotated file, plain or .gz, and prints how it was read.

  Raises:
    UserError: the file is missing, or is not IOB2; names up to ten lines.
  """
  data = read_bytes(path, f"{EXPECTED}, plain or .gz")
  return parse(io.BytesIO(data), str(path))


def parse(lines: Iterable[bytes], name: str) -> list[Sentence]:
  """Parses undecoded lines; see `read`.

  Args:
    lines: all lines of a file.
    name: what messages call the file.
  """
  decoded = decode(lines, name, EXPECTED)
  guess, start, layout = LayoutGuess(name, tagged=True), [], None
  for number, text in decoded:
    start.append((number, text))
    if layout := guess.add(number, text):
      break
  layout = layout or guess.end()
  parser = SentenceParser(name, layout)
  sentences = parse_lines(parser, itertools.chain(start, decoded))
  if not sentences:
    raise UserError(f"{name}:1: no sentence in this file; expected {EXPECTED}.")
  _check_nested(sentences, layout)
  repaired = [s.with_tags(repair(s.tags)) for s in sentences]
  scheme = "IOB2"
  if repaired != sentences:
    if any(map(_has_iob2_start, sentences)):
      _refuse_tags(sentences, repaired)
    scheme = "IOB1, in which entities begin with I-"
  print_layout(name, f"{layout} ({scheme})")
  return repaired


def print_layout(name: str, layout: object) -> None:
  """Tells the user how a file is read."""
  say(f"note: {name}: read as {layout}.")


class SentenceParser:
  """Parses lines of a known layout; see `text_lines.LineParser`."""

  def __init__(self, name: str, layout: Layout) -> None:
    """Starts before the first line.

    Args:
      name: what messages call the file.
      layout: how the lines are built.
    """
    self._name, self._layout = name, layout
    self._comments: list[str] = []
    self._rows: list[tuple[int, str, str, str]] = []  # see `Layout.split`

  def feed(self, number: int, text: str) -> list[Sentence]:
    """Takes the next line and returns the sentence that it ends, if any."""
    blank, layout = not text.strip(), self._layout
    if not blank and not is_boundary(text):
      if layout.is_comment(text):
        self._comments.append(text)
      else:
        parts = layout.split(text, f"{self._name}:{number}")
        self._rows.append((number, *parts))
      return []
    done = []
    if self._rows:
      numbers, before, words, tags = zip(*self._rows, strict=True)
      tags = tags if layout.tagged else ()
      comments = tuple(self._comments)
      done = [Sentence(comments, words, before, tags, numbers, self._name)]
      self._comments, self._rows = [], []
    elif blank:
      self._comments.append("")
    if not blank:
      self._comments.append(text if layout.tagged else f"{text}\t{OUTSIDE}")
    return done


def _check_nested(sentences: Sequence[Sentence], layout: Layout) -> None:
  """Raises UserError if the last two columns both have tags of names.

  Chunks, which CoNLL-2003 has there, have other types than names.
  """
  types: set[str] = set()
  outer: dict[str, tuple[str, str]] = {}  # type -> place and tag
  for sentence in sentences:
    for i, before in enumerate(sentence.before):
      fields = layout.fields(before.rstrip(layout.separator))
      if len(fields) < 2 or not TAG.fullmatch(fields[-1]):
        return
      types.add(sentence.tags[i][2:])
      outer.setdefault(fields[-1][2:], (sentence.place(i), fields[-1]))
  if both := (types & outer.keys()) - {""}:
    place, tag = outer[min(both)]
    raise UserError(
      f"{place}: the last two columns both have tags of names, such as {tag!r} "
      "here (nested names, as in GermEval's files?); expected one column of "
      "tags. Leave out the other, such as with `cut`."
    )


def _has_iob2_start(sentence: Sentence) -> bool:
  """Returns whether a B- stands where IOB1 would have an I-."""
  return any(
    tag.startswith("B-") and before[1:] != tag[1:]
    for before, tag in itertools.pairwise((OUTSIDE, *sentence.tags))
  )


def _refuse_tags(
  sentences: Sequence[Sentence], repaired: Sequence[Sentence]
) -> None:
  """Raises UserError that names I- with which entities begin, up to ten."""
  problems = Problems()
  for sentence, valid in zip(sentences, repaired, strict=True):
    pairs = zip(sentence.tags, valid.tags, strict=True)
    for i, (tag, expected) in enumerate(pairs):
      if tag != expected:
        where = f"follows {sentence.tags[i - 1]}" if i else "starts a sentence"
        problems.add(
          f"{sentence.place(i)}: the tag {tag} {where}; expected {expected} "
          f"here, or {expected} or {tag} before it (IOB2)."
        )
  problems.raise_all()


def repair(tags: Iterable[str]) -> list[str]:
  """Replaces I- by B- where an entity begins, which makes tags valid IOB2.

  The entities stay the same as conlleval, and seqeval by default, find them.
  """
  valid: list[str] = []
  for tag in tags:
    before = valid[-1] if valid else OUTSIDE
    begins = tag.startswith("I-") and before[1:] != tag[1:]
    valid.append(f"B-{tag[2:]}" if begins else tag)
  return valid


def to_text(sentences: Iterable[Sentence]) -> str:
  """Returns the sentences as the text of a file."""
  lines: list[str] = []
  for sentence in sentences:
    rows = zip(sentence.before, sentence.tags, strict=True)
    lines += [*sentence.comments, *(before + tag for before, tag in rows), ""]
  return "".join(f"{line}\n" for line in lines)
