"""Reads and writes CoNLL-U (universaldependencies.org/format.html).

Comments, multiword tokens and empty nodes are kept as they stand; only the
columns of words are ever replaced.
"""

import dataclasses
import functools
import graphlib
import io
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from time_jax.core.errors import UserError
from time_jax.evals.common.text_lines import decode, parse_lines, read_bytes

EXPECTED = "a CoNLL-U file"
COLUMNS = (
  *("ID", "FORM", "LEMMA", "UPOS", "XPOS"),
  *("FEATS", "HEAD", "DEPREL", "DEPS", "MISC"),
)
_INDEX = {name: i for i, name in enumerate(COLUMNS)}
_RANGE = re.compile(r"([1-9][0-9]{,8})-([1-9][0-9]{,8})")
_EMPTY = re.compile(r"(0|[1-9][0-9]*)\.[1-9][0-9]*")
_HEAD = re.compile(r"[0-9]{1,9}")


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One sentence of a file.

  Attributes:
    rows: its lines in order: a comment is a single string, every other line
      ten columns.
    numbers: numbers of these lines in the file, from 1.
    name: what messages call the file.
  """

  rows: tuple[tuple[str, ...], ...]
  numbers: tuple[int, ...]
  name: str

  @functools.cached_property
  def words(self) -> tuple[tuple[str, ...], ...]:
    """The rows of words: no comments, multiword tokens or empty nodes."""
    return tuple(row for row in self.rows if _is_word(row))

  def column(self, name: str) -> list[str]:
    """Returns a column of the words, by its name in `COLUMNS`."""
    return [row[_INDEX[name]] for row in self.words]

  def place(self, word: int) -> str:
    """Returns FILE:LINE of a word, counted from 0."""
    pairs = zip(self.rows, self.numbers, strict=True)
    lines = [number for row, number in pairs if _is_word(row)]
    return f"{self.name}:{lines[word]}"

  def with_columns(self, columns: Mapping[str, Sequence[str]]) -> "Sentence":
    """Replaces some columns of the words; each has a value for every word."""
    rows = list(self.rows)
    places = [i for i, row in enumerate(rows) if _is_word(row)]
    before = zip(*(rows[i] for i in places), strict=True)
    named = zip(COLUMNS, before, strict=True)
    after = [columns.get(name, values) for name, values in named]
    for i, word in zip(places, zip(*after, strict=True), strict=True):
      rows[i] = word
    return Sentence(tuple(rows), self.numbers, self.name)


def _is_word(row: tuple[str, ...]) -> bool:
  return len(row) > 1 and row[0].isdecimal()


def make_sentence(forms: Sequence[str], name: str = "text") -> Sentence:
  """Makes a sentence of which only the words are known."""
  numbers = tuple(range(1, len(forms) + 1))
  nothing = [("_",) * len(forms)] * (len(COLUMNS) - 2)
  rows = zip(map(str, numbers), forms, *nothing, strict=True)
  return Sentence(tuple(rows), numbers, name)


def read(path: pathlib.Path, *, trees: bool = True) -> list[Sentence]:
  """Reads an annotated file, plain or .gz.

  Args:
    path: path of the file.
    trees: see `parse`.

  Raises:
    UserError: the file is missing, or is not CoNLL-U, if `trees` with one tree
      a sentence; names up to ten lines.
  """
  data = read_bytes(path, "a CoNLL-U file (.conllu or .conllu.gz)")
  return parse(io.BytesIO(data), str(path), trees=trees)


def parse(
  lines: Iterable[bytes], name: str, *, trees: bool = True
) -> list[Sentence]:
  """Parses undecoded lines; see `read`.

  Args:
    lines: all lines of a file.
    name: what messages call the file.
    trees: whether HEAD must be filled in and make a tree with one root.
  """
  decoded = decode(lines, name, EXPECTED)
  sentences = parse_lines(SentenceParser(name, trees=trees), decoded)
  if not sentences:
    raise UserError(
      f"{name}:1: no sentence in this file; expected CoNLL-U: a line of ten "
      "tab-separated columns for each word."
    )
  return sentences


class SentenceParser:
  """Parses CoNLL-U line by line; see `text_lines.LineParser`."""

  def __init__(self, name: str, *, trees: bool) -> None:
    """Starts before the first line.

    Args:
      name: what messages call the file.
      trees: whether HEAD must be filled in and make a tree with one root.
    """
    self._name, self._trees = name, trees
    self._rows: list[tuple[str, ...]] = []
    self._numbers: list[int] = []

  def feed(self, number: int, text: str) -> list[Sentence]:
    """Takes the next line and returns the sentence that it ends, if any."""
    if text.strip():
      self._numbers.append(number)
      self._rows.append(())  # It stays empty if the line is malformed.
      self._rows[-1] = self._row(number, text)
      return []
    rows, numbers = tuple(self._rows), tuple(self._numbers)
    self._rows, self._numbers = [], []
    if not rows or () in rows:
      return []
    sentence = Sentence(rows, numbers, self._name)
    _check_ids(sentence)
    if self._trees:
      check_tree(sentence)
    return [sentence]

  def _row(self, number: int, text: str) -> tuple[str, ...]:
    if text.startswith("#"):
      return (text,)
    row = tuple(text.split("\t"))
    if len(row) != len(COLUMNS):
      raise UserError(
        f"{self._name}:{number}: {len(row)} columns, expected {len(COLUMNS)} "
        "separated by tabs (CoNLL-U)."
      )
    if not row[1].strip():
      raise UserError(
        f"{self._name}:{number}: the word is empty, expected a form."
      )
    return row


def _check_ids(sentence: Sentence) -> None:
  """Raises UserError unless ids count words, word ranges and empty nodes."""
  word, until = 0, 0  # ids so far, and the end of the multiword token
  for row, number in zip(sentence.rows, sentence.numbers, strict=True):
    if len(row) == 1:
      continue
    given, expected = row[0], str(word + 1)
    if given == expected:
      word += 1
      continue
    place = f"{sentence.name}:{number}"
    if span := _RANGE.fullmatch(given):
      first, last = map(int, span.groups())
      if first != word + 1 or last < first or first <= until:
        raise UserError(
          f"{place}: the multiword token has id {given:.60}, expected one that "
          f"starts at {word + 1}."
        )
      until = last
    elif not _EMPTY.fullmatch(given) or given.split(".")[0] != str(word):
      raise UserError(
        f"{place}: id {given!r:.60}, expected {expected}: ids count the words "
        "of a sentence from 1."
      )
  if word < max(until, 1):
    raise UserError(
      f"{sentence.name}:{sentence.numbers[-1]}: the sentence ends after {word} "
      f"words, expected at least {max(until, 1)}."
    )


def check_tree(sentence: Sentence) -> None:
  """Raises UserError unless the heads make a tree with one root."""
  column = sentence.column("HEAD")
  for i, text in enumerate(column):
    if not _HEAD.fullmatch(text) or int(text) > len(column):
      raise UserError(
        f"{sentence.place(i)}: HEAD is {text!r:.60}, expected a number from 0 "
        f"to {len(column)}."
      )
  heads = [int(text) for text in column]
  roots = [i for i, head in enumerate(heads) if head == 0]
  if len(roots) != 1:
    raise UserError(
      f"{sentence.place(roots[1] if roots else 0)}: the sentence has "
      f"{len(roots)} roots (HEAD 0), expected exactly one."
    )
  try:
    edges = {word: [head] for word, head in enumerate(heads, 1)}
    graphlib.TopologicalSorter(edges).prepare()
  except graphlib.CycleError as error:
    word = min(error.args[1])
    raise UserError(
      f"{sentence.place(word - 1)}: word {word} is its own ancestor; expected "
      "heads that make a tree."
    ) from None


def to_text(sentences: Iterable[Sentence]) -> str:
  """Returns the sentences as the text of a file."""
  return "".join(
    "".join("\t".join(row) + "\n" for row in sentence.rows) + "\n"
    for sentence in sentences
  )
