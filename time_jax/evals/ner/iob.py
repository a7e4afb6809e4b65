"""Files of names: a token and its tag a line, an empty line behind a sentence.

`token<TAB>tag`, or columns with tabs or spaces between them as in CoNLL-2003:
the first is the token, the last the tag. A tag is O, B-TYPE (an entity begins)
or I-TYPE (it goes on); a file in IOB1, where B- only separates two entities, is
read as IOB2. What stands before the tag is kept as it is. A line -DOCSTART-
ends a document and is no token.

How lines are to be read is decided once for a file, see `layouts`, and said.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

from time_jax.core.errors import UserError
from time_jax.evals.common.lines import Problems, decode, read_lines
from time_jax.evals.ner import layouts
from time_jax.evals.ner.layouts import TAG, Layout

OUTSIDE = "O"
EMPTY = "_"  # the word where a file has an empty token
EXPECTED = "an IOB2 file (a token, a tab and its tag a line)"


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One sentence of a file.

  Attributes:
    comments: the lines without tokens before it: those that start with "# ",
      marks between documents, and empty ones behind the first empty one.
    words: its tokens.
    before: of every word, its line up to the tag.
    tags: of every word; empty where there are none yet.
    numbers: of the words' lines in the file, from 1.
    name: of the file, for messages.
  """

  comments: tuple[str, ...]
  words: tuple[str, ...]
  before: tuple[str, ...]
  tags: tuple[str, ...]
  numbers: tuple[int, ...]
  name: str

  def place(self, word: int) -> str:
    """FILE:LINE of a word, counted from 0."""
    return f"{self.name}:{self.numbers[word]}"

  def with_tags(self, tags: Sequence[str]) -> "Sentence":
    """The sentence with other tags."""
    return dataclasses.replace(self, tags=tuple(tags))


def make_sentence(words: Sequence[str], name: str = "text") -> Sentence:
  """A sentence of which nothing but its words is known."""
  before = tuple(f"{word}\t" for word in words)
  numbers = tuple(range(1, len(words) + 1))
  return Sentence((), tuple(words), before, (), numbers, name)


def read(path: pathlib.Path) -> list[Sentence]:
  """Reads a file with tags, plain or .gz, and says how it was read.

  Raises:
    UserError: no such file, or not IOB2; names the lines, ten at most.
  """
  return parse(read_lines(path, f"{EXPECTED}, plain or .gz"), str(path))


def parse(lines: Iterable[bytes], name: str) -> list[Sentence]:
  """The same for lines, as they are on disk.

  Args:
    lines: of the file, undecoded.
    name: what messages call the file.
  """
  numbered = decode(lines, name, EXPECTED)
  guess, first, layout = layouts.Guess(name, tagged=True), [], None
  for number, text in numbered:
    first.append((number, text))
    if layout := guess.add(number, text):
      break
  layout = layout or guess.end()
  found = list(sentences(itertools.chain(first, numbered), name, layout))
  if not found:
    raise UserError(f"{name}:1: no sentence in this file; expected {EXPECTED}.")
  _check_nested(found, layout)
  scheme = "IOB2"
  if problems := list(_disorder(found)):
    if any(map(_begins_first, found)):
      _raise(problems)
    found = [s.with_tags(repair(s.tags)) for s in found]
    scheme = "IOB1, in which entities begin with I-"
  say(name, f"{layout} ({scheme})")
  return found


def say(name: str, what: str) -> None:
  """Tells the user how a file is read."""
  print(f"time_jax: note: {name}: read as {what}.", file=sys.stderr)


def sentences(
  numbered: Iterable[tuple[int, str]], name: str, layout: Layout
) -> Iterator[Sentence]:
  """The sentences of lines, as far as no line before is wrong.

  Args:
    numbered: lines with their numbers; the last is empty.
    name: what messages call the file.
    layout: how the lines are to be read.

  Raises:
    UserError: at the end, if lines are not of the layout; names ten at most.
  """
  comments: list[str] = []
  rows: list[tuple[int, str, str, str]] = []  # line number, before, word, tag
  problems = Problems()
  for number, text in numbered:
    blank = not text.strip()
    if blank or layouts.is_boundary(text):
      if rows and not problems.found:
        numbers, before, words, tags = zip(*rows, strict=True)
        tags = tags if layout.tagged else ()
        yield Sentence(tuple(comments), words, before, tags, numbers, name)
      elif blank:
        comments.append("")
      if rows:
        comments, rows = [], []
      if not blank:
        comments.append(text if layout.tagged else f"{text}\t{OUTSIDE}")
    elif layout.is_comment(text):
      comments.append(text)
    else:
      with problems:
        rows.append((number, *_columns(text, layout, f"{name}:{number}")))
  problems.raise_them()


def _columns(text: str, layout: Layout, place: str) -> tuple[str, str, str]:
  """What stands before the tag, the token, the tag; empty: there is none."""
  if layout.tagged:
    before, word, tag = _row(text, layout, place)
  else:
    before, word, tag = f"{text}\t", _token(text.split("\t")[0], place), ""
    if not layout.separator and len(layouts.spaced(text)) > 1:
      raise UserError(
        f"{place}: several words or columns, {text.strip()!r:.60}, where each "
        "line before holds one token; expected a token a line. For running "
        "text, begin the input with a line of several words."
      )
  if layout.prefix:
    layouts.check_prefix(word, layout.prefix, place)
    word = word[len(layout.prefix) :] or EMPTY
  return before, word, tag


def _check_nested(found: Sequence[Sentence], layout: Layout) -> None:
  """UserError where the last two columns both say where names are.

  Chunks, which CoNLL-2003 has there, have other types than names.
  """
  inner: set[str] = set()
  outer: dict[str, tuple[str, str]] = {}  # type -> place and tag
  for sentence in found:
    for i, (before, tag) in enumerate(
      zip(sentence.before, sentence.tags, strict=True)
    ):
      fields = layout.fields(before.rstrip(layout.separator))
      if len(fields) < 2 or not TAG.fullmatch(fields[-1]):
        return
      inner.add(tag[2:])
      outer.setdefault(fields[-1][2:], (sentence.place(i), fields[-1]))
  both = (inner & outer.keys()) - {""}
  if both:
    place, tag = outer[min(both)]
    raise UserError(
      f"{place}: the last two columns both have tags of names, such as {tag!r} "
      "here (nested names, as in GermEval's files?); expected one column of "
      "tags. Leave out the other, such as with `cut`."
    )


def _row(text: str, layout: Layout, place: str) -> tuple[str, str, str]:
  """What stands before the tag, the token, the tag."""
  text, mark = text.rstrip(" "), layout.separator
  before, found, tag = text.rpartition(mark)
  word = _token(text.split(mark)[0], place)
  if not found or not tag:
    raise UserError(
      f"{place}: no tag behind the token {word!r}; expected a tab and O, "
      "B-TYPE or I-TYPE."
    )
  if not TAG.fullmatch(tag):
    raise UserError(
      f"{place}: the tag is {tag!r}, expected O, B-TYPE or I-TYPE (IOB2)."
    )
  if layout.columns and len(layout.fields(text)) != layout.columns:
    raise UserError(
      f"{place}: {len(layout.fields(text))} columns with spaces between them, "
      f"expected {layout.columns} as in the first lines."
    )
  return before + mark, word, tag


def _token(text: str, place: str) -> str:
  if not text:
    raise UserError(f"{place}: the line does not start with a token.")
  return text


def _disorder(found: Iterable[Sentence]) -> Iterator[str]:
  """What is wrong with every entity that goes on but has not begun."""
  for sentence in found:
    before = ""
    for i, tag in enumerate(sentence.tags):
      if not follows(before or OUTSIDE, tag=tag):
        kind = tag[2:]
        where = f"follows {before}" if before else "starts a sentence"
        yield (
          f"{sentence.place(i)}: the tag {tag} {where}; expected B-{kind} "
          f"here, or B-{kind} or I-{kind} before it (IOB2)."
        )
      before = tag


def _begins_first(sentence: Sentence) -> bool:
  """Whether a B- stands where IOB1 would have an I-."""
  tags = (OUTSIDE, *sentence.tags)
  return any(
    tag.startswith("B-") and before[1:] != tag[1:]
    for before, tag in itertools.pairwise(tags)
  )


def _raise(messages: Iterable[str]) -> None:
  """Raises UserError with the first ten."""
  problems = Problems()
  for message in messages:
    with problems:
      raise UserError(message)
  problems.raise_them()


def follows(before: str = OUTSIDE, *, tag: str) -> bool:
  """Whether IOB2 allows a tag behind another."""
  return not tag.startswith("I-") or before[1:] == tag[1:]


def repair(tags: Iterable[str]) -> list[str]:
  """Lets an entity begin with B- where I- came first.

  The entities stay the same as conlleval, and seqeval by default, find them.
  """
  found: list[str] = []
  for tag in tags:
    before = found[-1] if found else OUTSIDE
    found.append(tag if follows(before, tag=tag) else f"B-{tag[2:]}")
  return found


def to_text(sentences: Iterable[Sentence]) -> str:
  """The sentences as a file has them."""
  return "".join(
    "".join(f"{comment}\n" for comment in sentence.comments)
    + "".join(
      f"{before}{tag}\n"
      for before, tag in zip(sentence.before, sentence.tags, strict=True)
    )
    + "\n"
    for sentence in sentences
  )
