"""Finds out from the first lines of a file with names how its lines are built.

`finetune ner` and `predict` read with the same rules. A file has columns with
tabs or with spaces between them (the token first and its tag last), or a token
a line, or running text with a sentence a line; the last two only where no tags
are needed. A line that may end with a tag is never silently read as words.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from time_jax.core.errors import UserError

OUTSIDE = "O"
EMPTY = "_"  # the word where a file has an empty token
TAG = re.compile(r"O|[BI]-\S+")
# The codes of Wikipedias, which WikiANN's own files write before every token.
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]+)*|simple):")
BOUNDARY = "-DOCSTART-"  # between documents; further columns may follow
_SAMPLE = 100  # rows after which the layout is decided at the latest


@dataclasses.dataclass(frozen=True)
class Layout:
  """How lines are built.

  Attributes:
    separator: what separates columns, a tab or a space; empty: each line is a
      token, or running text.
    tagged: whether the last column is the tag.
    columns: number of columns of each line; 0: unknown, or any number.
    prefix: language mark that begins every token, such as "en:".
    text: whether each line is a sentence of running text.
  """

  separator: str = ""
  tagged: bool = False
  columns: int = 0
  prefix: str = ""
  text: bool = False

  def __str__(self) -> str:
    """Describes the layout to the user."""
    if self.text:
      return "running text, a sentence a line"
    described = "a token a line"
    if self.separator:
      between = "tabs" if self.separator == "\t" else "spaces"
      described = f"columns with {between} between them, the token first, "
      described += "the tag last" if self.tagged else "without tags"
    if self.prefix:
      described += (
        f"; all tokens begin with {self.prefix!r}, as in WikiANN's own files, "
        "and models read what follows it"
      )
    return described

  def fields(self, text: str) -> list[str]:
    """Returns the columns of a line."""
    return spaced(text) if self.separator == " " else text.split("\t")

  def is_comment(self, text: str) -> bool:
    """Returns whether a line is a comment: it begins with "# ".

    A line "# O" is the token "#" where all lines with spaces look like that.
    """
    if not text.startswith("# ") or "\t" in text:
      return False
    fields = self.fields(text)
    return not (
      self.separator == " "
      and len(fields) == self.columns
      and TAG.fullmatch(fields[-1])
    )

  def split(self, text: str, place: str) -> tuple[str, str, str]:
    """Splits a line into what stands before the tag, the token, and the tag.

    Args:
      text: the line.
      place: FILE:LINE, for messages.

    Returns:
      The three parts; the tag is empty where the layout has none.

    Raises:
      UserError: the line is not of this layout.
    """
    if not self.tagged:
      if not self.separator and len(spaced(text)) > 1:
        raise UserError(
          f"{place}: several words or columns, {text.strip()!r:.60}, where "
          "each line before holds one token; expected a token a line. For "
          "running text, begin the input with a line of several words."
        )
      return f"{text}\t", self._token(text.split("\t")[0], place), ""
    text = text.rstrip(" ")
    before, separator, tag = text.rpartition(self.separator)
    word = self._token(text.split(self.separator)[0], place)
    if not tag or not separator:
      raise UserError(
        f"{place}: no tag after the token {word!r:.60}; expected a tab and O, "
        "B-TYPE or I-TYPE."
      )
    if not TAG.fullmatch(tag):
      raise UserError(
        f"{place}: the tag is {tag!r:.60}, expected O, B-TYPE or I-TYPE (IOB2)."
      )
    if self.columns and len(self.fields(text)) != self.columns:
      raise UserError(
        f"{place}: {len(self.fields(text))} columns with spaces between them, "
        f"expected {self.columns} as in the first lines."
      )
    return before + separator, word, tag

  def _token(self, text: str, place: str) -> str:
    if not text:
      raise UserError(f"{place}: the line does not start with a token.")
    if not text.startswith(self.prefix):
      raise _lacks_prefix(place, text, self.prefix)
    return text.removeprefix(self.prefix) or EMPTY


def is_boundary(text: str) -> bool:
  """Returns whether a line is CoNLL's mark between documents, not a word."""
  starts = text.startswith(BOUNDARY)  # as few lines do
  return starts and re.split("[ \t]", text, maxsplit=1)[0] == BOUNDARY


def spaced(text: str) -> list[str]:
  """Returns what stands between the spaces of a line.

  Other white space, such as the no-break space of "10\N{NO-BREAK SPACE}000",
  is a part of a token.
  """
  return [field for field in text.split(" ") if field]


def tagged_columns(text: str) -> int:
  """Returns how many columns a line has if the last is a tag, and else 0."""
  line = text.rstrip()
  fields = line.split("\t") if "\t" in text else spaced(line)
  return len(fields) if len(fields) > 1 and TAG.fullmatch(fields[-1]) else 0


class _Row(NamedTuple):
  """A line with a token: its number, its text, its place in the sentence."""

  number: int
  text: str
  place: int  # from 1


class LayoutGuess:
  """Decides the layout of a file while its first lines arrive.

  The outcome depends on the lines alone, not on how many arrive at once.
  """

  def __init__(self, name: str, *, tagged: bool = False) -> None:
    """Starts before the first line.

    Args:
      name: what messages call the file.
      tagged: whether there must be tags, as in a file to train on.
    """
    self._name, self._tagged = name, tagged
    self._rows: list[_Row] = []
    self._place = 0  # of the latest row in its sentence
    self._columns = tagged  # whether there are columns, with or without tags
    self._decided = False  # whether nothing came since the latest decision

  def add(self, number: int, text: str) -> Layout | None:
    """Looks at the next line.

    Args:
      number: number of the line in the file.
      text: the line without its end.

    Returns:
      The layout, or None while more lines may change it.

    Raises:
      UserError: no layout fits the lines.
    """
    if not text.strip():
      known, self._decided, self._place = self._decided, True, 0
      return self._decide(ended=False) if self._rows and not known else None
    if is_boundary(text):
      self._columns, self._decided = True, False
      return None
    if text.startswith("# ") and "\t" not in text:
      return None  # A comment, or a sentence of running text.
    self._place += 1
    self._decided = False
    self._rows.append(_Row(number, text, self._place))
    if not self._tagged and _is_sentence(text):
      return self._decide_at_sentence()
    return self._decide(ended=True) if len(self._rows) >= _SAMPLE else None

  def end(self) -> Layout:
    """Returns the layout where no more lines come; see `add`."""
    layout = self._decide(ended=True)
    assert layout is not None
    return layout

  def _decide_at_sentence(self) -> Layout | None:
    """Decides where the latest line is a sentence of several words.

    It may also be a row with a wrong tag, which more lines will show.
    """
    *before, last = (row.text for row in self._rows)
    counts = [n for text in before if (n := tagged_columns(text))]
    if any("\t" in text and tagged_columns(text) for text in before):
      return self._checked(Layout("\t", tagged=True))
    if _all_alike(counts):
      return self._checked(Layout(" ", tagged=True, columns=counts[0]))
    if self._columns:
      return Layout(" ", tagged=True)
    sentences = sum(_is_sentence(row.text) for row in self._rows)
    if len(spaced(last)) in counts and sentences <= len(counts):
      return None
    return Layout(text=True)

  def _decide(self, *, ended: bool) -> Layout | None:
    """Returns the layout that fits all lines so far, if it is certain."""
    layout = self._fitting(ended) or Layout(text=not self._columns)
    if ended:
      return layout if layout.text else self._checked(layout)
    if layout == Layout() or layout.text:
      return None
    # A few more lines may show that the first column is no token.
    words = [row_fields[0] for row_fields in self._fields(layout)]
    counts = len(words) == 1 and self._counts_words(layout)
    return None if counts or _prefix(words) else self._checked(layout)

  def _fitting(self, ended: bool) -> Layout | None:
    texts = [row.text for row in self._rows]
    tabbed = [text for text in texts if "\t" in text]
    if self._tagged and not tabbed:
      sizes = collections.Counter(len(spaced(text)) for text in texts)
      size = sizes.most_common(1)[0][0] if sizes else 0
      return Layout(" ", tagged=True, columns=size if size > 1 else 0)
    if self._tagged or any(map(tagged_columns, tabbed)):
      return Layout("\t", tagged=True)
    if tabbed:  # Else these may be words of running text.
      first_fields = (text.partition("\t")[0] for text in tabbed)
      return Layout("\t") if any(" " not in f for f in first_fields) else None
    counts = [n for text in texts if (n := tagged_columns(text))]
    others = len(texts) - len(counts)
    if _all_alike(counts) or (counts == [2] and not others and ended):
      return Layout(" ", tagged=True, columns=counts[0])
    if not counts:
      # A single word may also be a heading of running text.
      return Layout() if texts and ended else None
    if not ended:
      return None
    if others > len(counts):
      return Layout(text=True)
    row = next(row for row in self._rows if tagged_columns(row.text))
    tag = spaced(row.text.rstrip())[-1]
    raise UserError(
      f"{self._name}:{row.number}: this line may be a sentence, or a token "
      f"with its tag {tag!r:.60} in the last of several columns. Put tabs "
      "between columns; or, if it is a sentence, end it with a full stop."
    )

  def _fields(self, layout: Layout) -> list[list[str]]:
    return [layout.fields(row.text) or [""] for row in self._rows]

  def _counts_words(self, layout: Layout) -> bool:
    """Returns whether the first column only counts the words of a sentence."""
    rows = zip(self._fields(layout), self._rows, strict=True)
    # In GermEval's files "#" begins a comment.
    kept = [(fields, row.place) for fields, row in rows if fields[0] != "#"]
    first = [fields[0] for fields, _ in kept]
    numbers = [[str(n - start) for _, n in kept] for start in (0, 1)]
    least = 3 if layout.tagged else 2  # columns
    enough = bool(kept) and all(len(fields) >= least for fields, _ in kept)
    return enough and first in numbers

  def _without_count(self, layout: Layout) -> str:
    """Returns a command that keeps the tokens and the first column of tags."""
    rows = self._fields(layout)
    command = "cut -d' '" if layout.separator == " " else "cut"
    if any(fields[0] == "#" for fields in rows):
      command = rf"grep -v $'^#\t' | {command}"
    if not layout.tagged:
      return f"{command} -f2"
    row = next(fields for fields in rows if fields[0] != "#")
    tags = (i for i, field in enumerate(row, 1) if TAG.fullmatch(field))
    return f"{command} -f2,{next(tags, len(row))}"

  def _checked(self, layout: Layout) -> Layout:
    """Returns the layout with the prefix that all tokens have.

    Raises:
      UserError: the first column only counts words, or some tokens lack the
        prefix that most have.
    """
    if layout.separator and self._counts_words(layout):
      raise UserError(
        f"{self._name}:{self._rows[0].number}: the first column only counts "
        "the words (1, 2, 3, ...), as in GermEval's files and CoNLL-U; "
        "expected the token first and one column of tags last. Keep only "
        f"these, such as with `{self._without_count(layout)}`."
      )
    words = [fields[0] for fields in self._fields(layout)]
    if prefix := _prefix(words):
      return dataclasses.replace(layout, prefix=prefix)
    prefixes = collections.Counter(
      match[0] for word in words if (match := _LANGUAGE.match(word))
    )
    for usual, count in prefixes.most_common(1):
      for row, word in zip(self._rows, words, strict=True):
        if 1 < count > len(words) / 2 and not word.startswith(usual):
          raise _lacks_prefix(f"{self._name}:{row.number}", word, usual)
    return layout


def _lacks_prefix(place: str, word: str, prefix: str) -> UserError:
  return UserError(
    f"{place}: the token {word!r:.60} does not begin with {prefix!r} as others "
    "before or after it do; expected all tokens of a file to begin with the "
    "same language, as in WikiANN's own files, or none."
  )


def _is_sentence(text: str) -> bool:
  """Returns whether a line is several words without a tab and without a tag."""
  return "\t" not in text and len(spaced(text)) > 1 and not tagged_columns(text)


def _all_alike(counts: Sequence[int]) -> bool:
  """Returns whether several lines have the same number of columns."""
  return len(counts) > 1 and len({*counts}) == 1


def _prefix(words: Sequence[str]) -> str:
  """Returns the language mark before all words, if they have one.

  A word that is nothing but the mark is an empty token.
  """
  match = _LANGUAGE.match(words[0]) if words else None
  prefix = match[0] if match else ""
  alike = all(word.startswith(prefix) for word in words)
  return prefix if alike and any(word != prefix for word in words) else ""
