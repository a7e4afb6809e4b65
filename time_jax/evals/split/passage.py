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
    words: its words: itself, or those of a multiword token such as `des`.
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
  between tokens, so that the text can be rebuilt.
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
    whole = " ".join(text[some[0].start : some[-1].stop].split())
    rows: list[tuple[str, ...]] = [(f"# text = {whole}",)]
    number = 1
    for token in some:
      misc = _misc(before, text[token.stop : after[token]])
      rows += _rows(text[token.start : token.stop], token.words, number, misc)
      number += len(token.words)
      before = ""
    numbers = tuple(range(1, len(rows) + 1))
    yield Sentence(tuple(rows), numbers, passage.name)


def _rows(
  surface: str, words: Sequence[str], first: int, misc: str
) -> Iterator[tuple[str, ...]]:
  """Yields the row of a token, and before those of several words its range."""
  if len(words) > 1:
    until = first + len(words) - 1
    form = " ".join(surface.split())
    yield (f"{first}-{until}", form, *_NOTHING, misc)
    misc = "_"
  for number, word in enumerate(words, first):
    yield (str(number), word, *_NOTHING, misc)


def _misc(before: str, after: str) -> str:
  """Returns MISC of a token, from what stands before and after it."""
  found = []
  if before:
    found.append(f"SpacesBefore={before.translate(_ESCAPES)}")
  if not after:
    found.append("SpaceAfter=No")
  elif after != " ":
    found.append(f"SpacesAfter={after.translate(_ESCAPES)}")
  return "|".join(found) or "_"
