"""CoNLL-U files (universaldependencies.org/format.html), in and out.

Comments, multiword tokens and empty nodes are kept as they stand; only the
columns of words are ever replaced.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from time_jax.core.errors import UserError
from time_jax.evals.common.lines import Problems, decode, read_lines

COLUMNS = (
  *("ID", "FORM", "LEMMA", "UPOS", "XPOS"),
  *("FEATS", "HEAD", "DEPREL", "DEPS", "MISC"),
)
_INDEX = {name: i for i, name in enumerate(COLUMNS)}
_WORD = re.compile(r"[1-9]\d*")
_RANGE = re.compile(r"([1-9]\d*)-([1-9]\d*)")
_EMPTY = re.compile(r"(0|[1-9]\d*)\.[1-9]\d*")


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One sentence of a file.

  Attributes:
    rows: its lines in order: a comment is a single string, every other line
      ten columns.
    numbers: of these lines in the file, from 1.
    name: of the file, for messages.
  """

  rows: tuple[tuple[str, ...], ...]
  numbers: tuple[int, ...]
  name: str

  @property
  def words(self) -> list[tuple[str, ...]]:
    """The syntactic words: no comment, multiword token or empty node."""
    return [row for row in self.rows if _is_word(row)]

  def column(self, name: str) -> list[str]:
    """A column of the words, by its name in `COLUMNS`."""
    return [row[_INDEX[name]] for row in self.words]

  def place(self, word: int) -> str:
    """FILE:LINE of a word, counted from 0."""
    lines = [
      number
      for row, number in zip(self.rows, self.numbers, strict=True)
      if _is_word(row)
    ]
    return f"{self.name}:{lines[word]}"

  def with_columns(self, columns: Mapping[str, Sequence[str]]) -> "Sentence":
    """The sentence with other values in some columns of its words."""
    rows, count = [], itertools.count()
    for row in self.rows:
      if _is_word(row):
        i, fields = next(count), list(row)
        for name, values in columns.items():
          fields[_INDEX[name]] = values[i]
        row = tuple(fields)
      rows.append(row)
    return dataclasses.replace(self, rows=tuple(rows))


def _is_word(row: tuple[str, ...]) -> bool:
  return len(row) > 1 and row[0].isdecimal()


def make_sentence(forms: Sequence[str], name: str = "text") -> Sentence:
  """A sentence of which nothing but its words is known."""
  rows = [
    (str(i), form, *["_"] * (len(COLUMNS) - 2))
    for i, form in enumerate(forms, 1)
  ]
  return Sentence(tuple(rows), tuple(range(1, len(rows) + 1)), name)


def read(path: pathlib.Path, *, trees: bool = True) -> list[Sentence]:
  """Reads a file, plain or .gz.

  Args:
    path: of the file.
    trees: whether heads must be there and make a tree with one root.

  Raises:
    UserError: no such file, or not CoNLL-U; names the lines, ten at most.
  """
  lines = read_lines(path, "a CoNLL-U file (.conllu or .conllu.gz)")
  return parse(lines, str(path), trees=trees)


def parse(
  lines: Iterable[bytes], name: str, *, trees: bool = True, first: int = 1
) -> list[Sentence]:
  """The same for lines, as they are on disk.

  Args:
    lines: of the file, undecoded.
    name: what messages call the file.
    trees: as for `read`.
    first: number of the first line.
  """
  sentences, problems = [], Problems()
  for sentence in _sentences(lines, name, first, problems):
    with problems:
      sentences.append(_check(sentence, trees))
  problems.raise_them()
  if not sentences:
    raise UserError(
      f"{name}:{first}: no sentence in this file; expected CoNLL-U: a line of "
      "ten tab-separated columns for each word."
    )
  return sentences


def _sentences(
  lines: Iterable[bytes], name: str, first: int, problems: Problems
) -> Iterator[Sentence]:
  """Those of which every line is sound; of others the lines are noted."""
  rows: list[tuple[str, ...]] = []
  numbers: list[int] = []
  sound = True
  for number, text in decode(lines, name, "a CoNLL-U file", first):
    if text.strip():
      before = len(rows)
      with problems:
        rows.append(_row(text, f"{name}:{number}"))
      numbers.append(number)
      sound = sound and len(rows) > before
      continue
    if rows and sound:
      yield Sentence(tuple(rows), tuple(numbers), name)
    rows, numbers, sound = [], [], True


def _row(text: str, place: str) -> tuple[str, ...]:
  if text.startswith("#"):
    return (text,)
  row = tuple(text.split("\t"))
  if len(row) != len(COLUMNS):
    raise UserError(
      f"{place}: {len(row)} columns, expected {len(COLUMNS)} separated by "
      "tabs (CoNLL-U)."
    )
  if not row[1].strip():
    raise UserError(f"{place}: the word is empty, expected a form.")
  return row


def _check(sentence: Sentence, trees: bool) -> Sentence:
  """UserError for a sentence that is none."""
  word, until = 0, 0  # ids so far, and the end of the multiword token
  for row, number in zip(sentence.rows, sentence.numbers, strict=True):
    if len(row) == 1:
      continue
    place, found = f"{sentence.name}:{number}", row[0]
    if _WORD.fullmatch(found) and int(found) == word + 1:
      word += 1
    elif span := _RANGE.fullmatch(found):
      first, last = map(int, span.groups())
      if first != word + 1 or last < first or first <= until:
        raise UserError(
          f"{place}: the multiword token has id {found}, expected one that "
          f"starts at {word + 1}."
        )
      until = last
    elif not _EMPTY.fullmatch(found) or found.split(".")[0] != str(word):
      raise UserError(
        f"{place}: id {found!r}, expected {word + 1}: ids count the words of a "
        "sentence from 1."
      )
  place = f"{sentence.name}:{sentence.numbers[-1]}"
  if word < max(until, 1):
    raise UserError(
      f"{place}: the sentence ends after {word} words, expected at least "
      f"{max(until, 1)}."
    )
  if trees:
    _check_tree(sentence)
  return sentence


def _check_tree(sentence: Sentence) -> None:
  heads = [
    _head(text, sentence, i) for i, text in enumerate(sentence.column("HEAD"))
  ]
  roots = [i for i, head in enumerate(heads) if head == 0]
  if len(roots) != 1:
    raise UserError(
      f"{sentence.place(roots[1] if roots else 0)}: the sentence has "
      f"{len(roots)} roots (HEAD 0), expected exactly one."
    )
  sound = {-1}
  for start in range(len(heads)):
    path, i = [], start
    while i not in sound:
      if i in path:
        raise UserError(
          f"{sentence.place(i)}: word {i + 1} is its own ancestor; expected "
          "heads that make a tree."
        )
      path.append(i)
      i = heads[i] - 1
    sound.update(path)


def _head(text: str, sentence: Sentence, word: int) -> int:
  count = len(sentence.words)
  if not text.isdecimal() or int(text) > count:
    raise UserError(
      f"{sentence.place(word)}: HEAD is {text!r}, expected a number from 0 to "
      f"{count}."
    )
  return int(text)


def to_text(sentences: Iterable[Sentence]) -> str:
  """The sentences as a file has them."""
  return "".join(
    "".join("\t".join(row) + "\n" for row in sentence.rows) + "\n"
    for sentence in sentences
  )
