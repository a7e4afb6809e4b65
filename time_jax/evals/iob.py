"""IOB2 files: a token and its tag a line, an empty line behind a sentence.

`token<TAB>tag`, or columns of CoNLL with spaces or tabs between them: the first
is the token, the last the tag. A tag is O, B-TYPE (an entity begins) or I-TYPE
(it goes on). What stands before the tag is kept as it is.

WikiANN's own files write `da:token`: where all tokens of a tagged file begin
with the same language, it is no part of them.
"""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence

from time_jax.errors import UserError
from time_jax.evals.lines import Problems, decode, read_lines

OUTSIDE = "O"
_TAG = re.compile(r"O|[BI]-\S+")
_LANGUAGE = re.compile(r"[a-z][a-z-]+:")
_EXPECTED = "an IOB2 file (a token, a tab and its tag a line)"


@dataclasses.dataclass(frozen=True)
class Sentence:
  """One sentence of a file.

  Attributes:
    comments: the lines that start with "# " before it.
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
  """Reads a file, plain or .gz.

  Raises:
    UserError: no such file, or not IOB2; names the lines, ten at most.
  """
  lines = read_lines(path, f"{_EXPECTED}, plain or .gz")
  return _without_language(parse(lines, str(path)))


def parse(
  lines: Iterable[bytes], name: str, *, tagged: bool = True, first: int = 1
) -> list[Sentence]:
  """The same for lines, as they are on disk.

  Args:
    lines: of the file, undecoded.
    name: what messages call the file.
    tagged: whether the last column is the tag; else there is none yet.
    first: number of the first line.
  """
  sentences: list[Sentence] = []
  comments: list[str] = []
  rows: list[tuple[int, str, str, str]] = []  # line number, before, word, tag
  columns = 0  # of the latest line whose columns have spaces between them
  problems = Problems()
  for number, text in decode(lines, name, _EXPECTED, first):
    place = f"{name}:{number}"
    if not text.strip():
      if rows:
        numbers, before, words, tags = zip(*rows, strict=True)
        tags = tags if tagged else ()
        sentences.append(
          Sentence(tuple(comments), words, before, tags, numbers, name)
        )
        comments, rows = [], []
    elif _is_comment(text, columns):
      comments.append(text)
    elif tagged:
      with problems:
        rows.append((number, *_row(text, place)))
        if not problems.found:  # A line that is missing has an order, too.
          _check_order([tag for *_, tag in rows[-2:]], place)
      columns = 0 if "\t" in text else len(text.split())
    else:
      word = text.split("\t")[0]
      with problems:
        rows.append((number, f"{text}\t", _token(word, place), ""))
  problems.raise_them()
  if not sentences:
    raise UserError(
      f"{name}:{first}: no sentence in this file; expected {_EXPECTED}."
    )
  return sentences


def _without_language(sentences: list[Sentence]) -> list[Sentence]:
  """Tokens without the language that stands before every one of them."""
  found = _LANGUAGE.match(sentences[0].words[0])
  prefix = found[0] if found else ""
  words = [word for sentence in sentences for word in sentence.words]
  if not prefix or not all(
    word.startswith(prefix) and word != prefix for word in words
  ):
    return sentences
  print(
    f"time_jax: note: {sentences[0].name}: all tokens begin with {prefix!r}, "
    "as in WikiANN's own files; models read what is behind it.",
    file=sys.stderr,
  )
  return [
    dataclasses.replace(
      sentence, words=tuple(word[len(prefix) :] for word in sentence.words)
    )
    for sentence in sentences
  ]


def is_tagged(line: str) -> bool:
  """Whether the last of several columns, tabs between them, is a tag."""
  columns = line.rstrip().split("\t")
  return len(columns) > 1 and bool(_TAG.fullmatch(columns[-1]))


def _is_comment(text: str, columns: int) -> bool:
  """A line "# O" is the token "#" where lines with spaces look like that."""
  fields = text.split()
  looks_alike = len(fields) == columns and _TAG.fullmatch(fields[-1])
  return text.startswith("# ") and "\t" not in text and not looks_alike


def _row(text: str, place: str) -> tuple[str, str, str]:
  """What stands before the tag, the token, the tag."""
  text = text.rstrip(" ")
  mark = "\t" if "\t" in text else " "
  before, found, tag = text.rpartition(mark)
  word = _token(text.split(mark)[0], place)
  if not found or not tag:
    raise UserError(
      f"{place}: no tag behind the token {word!r}; expected a tab and O, "
      "B-TYPE or I-TYPE."
    )
  if not _TAG.fullmatch(tag):
    raise UserError(
      f"{place}: the tag is {tag!r}, expected O, B-TYPE or I-TYPE (IOB2)."
    )
  return before + mark, word, tag


def _token(text: str, place: str) -> str:
  if not text:
    raise UserError(f"{place}: the line does not start with a token.")
  return text


def _check_order(tags: Sequence[str], place: str) -> None:
  """UserError where an entity goes on that has not begun."""
  if follows(*tags[:-1], tag=tags[-1]):
    return
  kind = tags[-1][2:]
  before = f"follows {tags[0]}" if len(tags) > 1 else "starts a sentence"
  raise UserError(
    f"{place}: the tag {tags[-1]} {before}; expected B-{kind} here, or "
    f"B-{kind} or I-{kind} before it (IOB2)."
  )


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
