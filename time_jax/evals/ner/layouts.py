"""What the lines of a file of names hold, decided once from its first lines.

`finetune ner` and `predict` read with the same rules. A file has columns with
tabs or with spaces between them (the token first and its tag last), or a token
a line, or running text with a sentence a line; the last two only where no tags
are needed. Nothing that may be a tag is taken for a word without a message.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

from time_jax.core.errors import UserError

TAG = re.compile(r"O|[BI]-\S+")
# The codes of Wikipedias, which WikiANN's own files write before every token.
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]+)*|simple):")
BOUNDARY = "-DOCSTART-"  # of documents; further columns may follow
_SAMPLE = 100  # lines with words after which the format is decided at last


@dataclasses.dataclass(frozen=True)
class Layout:
  """How lines are to be read.

  Attributes:
    separator: what is between columns, a tab or a space; empty: each line is a
      token, or running text.
    tagged: whether the last column is the tag.
    columns: how many each line has; 0: not known, or any number.
    prefix: what every token begins with but does not consist of, such as "en:".
    text: whether each line is a sentence of running text.
  """

  separator: str = ""
  tagged: bool = False
  columns: int = 0
  prefix: str = ""
  text: bool = False

  def __str__(self) -> str:
    """The layout in words, for the user."""
    if self.text:
      return "running text, a sentence a line"
    if not self.separator:
      found = "a token a line"
    else:
      between = "tabs" if self.separator == "\t" else "spaces"
      last = "the tag last" if self.tagged else "without tags"
      found = f"columns with {between} between them, the token first, {last}"
    if self.prefix:
      found += (
        f"; all tokens begin with {self.prefix!r}, as in WikiANN's own files, "
        "and models read what is behind it"
      )
    return found

  def fields(self, text: str) -> list[str]:
    """The columns of a line."""
    return spaced(text) if self.separator == " " else text.split("\t")

  def is_comment(self, text: str) -> bool:
    """Whether a line is none of tokens: "# " begins it.

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


def is_boundary(text: str) -> bool:
  """Whether a line is CoNLL's mark between documents, which is no word."""
  return re.split("[ \t]", text, maxsplit=1)[0] == BOUNDARY


def spaced(text: str) -> list[str]:
  """What stands between the spaces of a line.

  Other white space, such as the no-break space of "10\N{NO-BREAK SPACE}000",
  is a part of a token.
  """
  return [field for field in text.split(" ") if field]


def tagged_columns(text: str) -> int:
  """How many columns a line has if the last is a tag; 0: it is not."""
  line = text.rstrip()
  fields = line.split("\t") if "\t" in text else spaced(line)
  return len(fields) if len(fields) > 1 and TAG.fullmatch(fields[-1]) else 0


class Guess:
  """Decides the layout of a file while its first lines arrive.

  What is found depends on the lines alone, not on how many arrive at once.
  """

  def __init__(self, name: str, *, tagged: bool = False) -> None:
    """Starts before the first line.

    Args:
      name: what messages call the file.
      tagged: whether there must be tags, as in a file to train on.
    """
    self._name, self._tagged = name, tagged
    self._rows: list[tuple[int, str]] = []  # with words: line number and text
    self._places: list[int] = []  # of each row in its sentence, from 1
    self._new_sentence = True
    self._columns = tagged  # for sure, if also without tags

  def add(self, number: int, text: str) -> Layout | None:
    """Looks at the next line.

    Args:
      number: of the line in the file.
      text: of the line, without its end.

    Returns:
      The layout; None: it is not sure yet.

    Raises:
      UserError: the lines cannot be read as any layout.
    """
    if not text.strip():
      self._new_sentence = True
      return self._layout(ended=False) if self._rows else None
    if is_boundary(text):
      self._columns = True
      return None
    if text.startswith("# ") and "\t" not in text:
      return None  # It says nothing: in running text it may be a sentence.
    place = 1 if self._new_sentence else self._places[-1] + 1
    self._new_sentence = False
    self._places.append(place)
    self._rows.append((number, text))
    if not self._tagged and _is_sentence(text):
      return self._before_text()
    if len(self._rows) >= _SAMPLE:
      return self._layout(ended=True)
    return None

  def end(self) -> Layout:
    """The layout where no more lines come."""
    found = self._layout(ended=True)
    assert found is not None
    return found

  def _before_text(self) -> Layout | None:
    """The layout where the latest line is a sentence of several words.

    None: it may also be a row with a wrong tag, and more lines will show it.
    """
    *before, last = (text for _, text in self._rows)
    counts = [n for text in before if (n := tagged_columns(text))]
    if any("\t" in text and tagged_columns(text) for text in before):
      return self._checked(Layout("\t", tagged=True))
    if _all_alike(counts):
      return self._checked(Layout(" ", tagged=True, columns=counts[0]))
    if self._columns:
      return Layout(" ", tagged=True)
    sentences = sum(_is_sentence(text) for _, text in self._rows)
    if len(spaced(last)) in counts and sentences <= len(counts):
      return None
    return Layout(text=True)

  def _layout(self, *, ended: bool) -> Layout | None:
    """The layout that all lines so far agree on; None: more may decide it."""
    tabbed = [text for _, text in self._rows if "\t" in text]
    if self._tagged:
      found = self._of_tags(bool(tabbed))
    elif tabbed:
      found = _of_tabs(tabbed)
    else:
      found = self._without_tabs(ended)
    if found is None and ended:
      found = Layout(text=not self._columns)
    if found is None or found.text:
      return found if ended else None
    if not ended and self._is_undecided(found):
      return None
    return self._checked(found)

  def _of_tags(self, tabs: bool) -> Layout:
    """Columns with tabs, if a line has one; else with spaces."""
    if tabs:
      return Layout("\t", tagged=True)
    spaced = Layout(" ", tagged=True)
    counts = collections.Counter(
      len(spaced.fields(text)) for _, text in self._rows
    )
    most = counts.most_common(1)[0][0] if counts else 0
    return dataclasses.replace(spaced, columns=most if most > 1 else 0)

  def _without_tabs(self, ended: bool) -> Layout | None:
    counts = [n for _, text in self._rows if (n := tagged_columns(text))]
    others = len(self._rows) - len(counts)
    if _all_alike(counts) or (counts == [2] and not others and ended):
      return Layout(" ", tagged=True, columns=counts[0])
    if counts and ended:
      if others > len(counts):
        return Layout(text=True)
      raise self._ambiguous()
    # A word may also be a heading of running text, so many must agree.
    return Layout() if self._rows and ended else None

  def _ambiguous(self) -> UserError:
    number, text = next(row for row in self._rows if tagged_columns(row[1]))
    tag = spaced(text.rstrip())[-1]
    return UserError(
      f"{self._name}:{number}: this line may be a sentence, or a token with "
      f"its tag {tag!r} in the last of several columns. Put tabs "
      "between columns; or, if it is a sentence, end it with a full stop."
    )

  def _is_undecided(self, layout: Layout) -> bool:
    """Whether a mistake is likely that a few more lines would show."""
    words = self._words(layout)
    return bool(_common_prefix(words)) or (
      len(words) == 1 and self._counts(layout)
    )

  def _words(self, layout: Layout) -> list[str]:
    """The first columns."""
    found = (layout.fields(text) for _, text in self._rows)
    return [fields[0] if fields else "" for fields in found]

  def _counts(self, layout: Layout) -> bool:
    """Whether the first column only counts the words of a sentence."""
    needed = 3 if layout.tagged else 2
    rows = [
      (fields, place)
      for (_, text), place in zip(self._rows, self._places, strict=True)
      if (fields := layout.fields(text))[0] != "#"  # of GermEval's comments
    ]
    return bool(rows) and any(
      all(
        fields[0] == str(place + shift) and len(fields) >= needed
        for fields, place in rows
      )
      for shift in (0, -1)
    )

  def _without_counts(self, layout: Layout) -> str:
    """A command that keeps the tokens and the first column of tags."""
    rows = [layout.fields(text) for _, text in self._rows]
    command = "cut -d' '" if layout.separator == " " else "cut"
    if any(fields[0] == "#" for fields in rows):
      command = rf"grep -v $'^#\t' | {command}"
    row = next(fields for fields in rows if fields[0] != "#")
    if not layout.tagged:
      return f"{command} -f2"
    tags = (i for i, field in enumerate(row, 1) if TAG.fullmatch(field))
    return f"{command} -f2,{next(tags, len(row))}"

  def _checked(self, layout: Layout) -> Layout:
    """The layout with the prefix of its tokens.

    Raises:
      UserError: the first column only counts, or some tokens lack the prefix
        that most have.
    """
    if layout.separator and self._counts(layout):
      raise UserError(
        f"{self._name}:{self._rows[0][0]}: the first column only counts the "
        "words (1, 2, 3, ...), as in GermEval's files and CoNLL-U; expected "
        "the token first and one column of tags last. Keep only these, such "
        f"as with `{self._without_counts(layout)}`."
      )
    words = self._words(layout)
    prefix = _common_prefix(words)
    if prefix:
      return dataclasses.replace(layout, prefix=prefix)
    found = collections.Counter(
      match[0] for word in words if (match := _LANGUAGE.match(word))
    )
    usual, count = (found.most_common(1) or [("", 0)])[0]
    if count > 1 and 2 * count > len(words):
      i = next(i for i, w in enumerate(words) if not w.startswith(usual))
      raise _lacks(f"{self._name}:{self._rows[i][0]}", words[i], usual)
    return layout


def check_prefix(word: str, prefix: str, place: str) -> None:
  """Raises UserError where a token has not the prefix of all others."""
  if not word.startswith(prefix):
    raise _lacks(place, word, prefix)


def _lacks(place: str, word: str, prefix: str) -> UserError:
  return UserError(
    f"{place}: the token {word!r} does not begin with {prefix!r} as others "
    "before or after it do; expected all tokens of a file to begin with the "
    "same language, as in WikiANN's own files, or none."
  )


def _is_sentence(text: str) -> bool:
  """Several words without a tab, of which the last is no tag."""
  return "\t" not in text and len(spaced(text)) > 1 and not tagged_columns(text)


def _all_alike(counts: Sequence[int]) -> bool:
  """Whether several lines have the same number of columns."""
  return len(counts) > 1 and len({*counts}) == 1


def _of_tabs(rows: Sequence[str]) -> Layout | None:
  """Columns of lines with tabs; None: they may be words of running text."""
  if any(map(tagged_columns, rows)):
    return Layout("\t", tagged=True)
  if any(" " not in row.partition("\t")[0] for row in rows):
    return Layout("\t")
  return None


def _common_prefix(words: Sequence[str]) -> str:
  """The language before all words; empty: none.

  It may be all that there is of some, which are empty tokens.
  """
  found = _LANGUAGE.match(words[0]) if words else None
  prefix = found[0] if found else ""
  if not all(word.startswith(prefix) for word in words):
    return ""
  return prefix if any(word != prefix for word in words) else ""
