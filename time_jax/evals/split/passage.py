"""Text with its tokens, words and sentences."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from time_jax.evals.ud.conllu import COLUMNS, Sentence

# How MISC writes what stands between tokens, as UDPipe does.
_ESCAPES = str.maketrans(
  {
    "\\": "\\\\",
    " ": "\\s",
    "\t": "\\t",
    "\n": "\\n",
    "\r": "\\r",
    "|": "\\p",
  }
)
_NOTHING = ("_",) * (len(COLUMNS) - 3)  # between FORM and MISC


class Token(NamedTuple):
  """A token of a text, text[start:stop].

  Attributes:
    start: its first character.
    stop: the character after it.
    words: its words: itself, or what a range such as `2-3 des` has. White
      space within a word is single spaces.
  """

  start: int
  stop: int
  words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Passage:
  """A text that ends no sentence of another one, such as a paragraph.

  Attributes:
    text: the text.
    sentences: the tokens of each sentence; empty: not known.
    name: what messages call it.
  """

  text: str
  sentences: tuple[tuple[Token, ...], ...] = ()
  name: str = "text"

  @property
  def words(self) -> list[str]:
    """All words."""
    return [w for tokens in self.sentences for t in tokens for w in t.words]


def to_conllu(passage: Passage) -> list[Sentence]:
  """Returns the sentences of a passage as CoNLL-U, with nothing but words.

  SpaceAfter, SpacesAfter and, of the first token, SpacesBefore say what stands
  between tokens, and SpacesInToken what a token is in the text if that is not
  its FORM, so that the text can be rebuilt.
  """
  return [*_sentences(passage)]


def _sentences(passage: Passage) -> Iterator[Sentence]:
  text = passage.text
  tokens = [token for some in passage.sentences for token in some]
  if not tokens:
    return
  stops = [*(token.start for token in tokens[1:]), len(text)]
  after = dict(zip(tokens, stops, strict=True))
  before = text[: tokens[0].start]
  for some in passage.sentences:
    whole = one_line(text[some[0].start : some[-1].stop])
    rows: list[tuple[str, ...]] = [(f"# text = {whole}",)]
    number = 1
    for token in some:
      surface = text[token.start : token.stop]
      misc = _misc(before, surface, text[token.stop : after[token]])
      rows += _rows(one_line(surface), token.words, number, misc)
      number += len(token.words)
      before = ""
    numbers = tuple(range(1, len(rows) + 1))
    yield Sentence(tuple(rows), numbers, passage.name)


def one_line(text: str) -> str:
  """Returns text as FORM has it: of all white space, single spaces are left."""
  return " ".join(text.split())


def _rows(
  form: str, words: Sequence[str], first: int, misc: str
) -> Iterator[tuple[str, ...]]:
  """Yields the rows of a token: its words, after a range unless it is one."""
  if tuple(words) != (form,):
    until = first + len(words) - 1
    yield (f"{first}-{until}", form, *_NOTHING, misc)
    misc = "_"
  for number, word in enumerate(words, first):
    yield (str(number), word, *_NOTHING, misc)


def _misc(before: str, surface: str, after: str) -> str:
  """Returns MISC of a token, from what stands before it, in it and after it."""
  found = []
  if before:
    found.append(f"SpacesBefore={before.translate(_ESCAPES)}")
  if not after:
    found.append("SpaceAfter=No")
  elif after != " ":
    found.append(f"SpacesAfter={after.translate(_ESCAPES)}")
  if surface != one_line(surface):
    found.append(f"SpacesInToken={surface.translate(_ESCAPES)}")
  return "|".join(found) or "_"
