"""Scores of what programs make of raw text, as CoNLL 2018 defines them.

A program finds sentences, tokens and words itself, so its words are other ones
than the gold file's. udtools aligns them by the characters of the text; a word
that is not found counts as wrong in every score.
"""

import bisect
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.common.packages import UDTOOLS, load_package
from time_jax.evals.common.text_lines import Problems
from time_jax.evals.ud import conllu, scoring
from time_jax.evals.ud.conllu import Sentence

SPLIT = ("Tokens", "Sentences", "Words")
# Metric -> the columns that it compares.
_COMPARES = {
  "UPOS": ("UPOS",),
  "UFeats": ("FEATS",),
  "Lemmas": ("LEMMA",),
  "UAS": ("HEAD",),
  "LAS": ("HEAD", "DEPREL"),
}
METRICS = (*SPLIT, *_COMPARES)
_NOTHING = "_"
_AROUND = 20  # characters that a message shows on each side


def read(path: pathlib.Path) -> list[Sentence]:
  """Reads what a program has written, with or without annotation.

  Args:
    path: a file of CoNLL-U, plain or .gz; HEAD is "_" in all of it, or makes
      one tree of each sentence.

  Raises:
    UserError: the file is missing, is not CoNLL-U, or has other HEADs; names up
      to ten lines.
  """
  sentences = conllu.read(path, trees=False)
  if _is_filled(sentences, "HEAD"):
    problems = Problems()
    for sentence in sentences:
      try:
        conllu.check_tree(sentence)
      except UserError as error:
        problems.add(error)
    problems.raise_all()
  return sentences


def score(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> dict[str, float]:
  """Returns F1 in percent of what is predicted.

  Args:
    gold: the sentences of a text.
    predicted: those that a program has found in the same text; see `read`.

  Returns:
    Metric -> F1: those of `SPLIT`, and what else of `METRICS` compares columns
    that `predicted` has, in any word.

  Raises:
    UserError: the two are of different texts, or udtools refuses one.
  """
  right, found = _load(gold), _load(predicted)
  if right.characters != found.characters:
    raise _other_text(_Text(gold, right), _Text(predicted, found))
  scores = load_package(UDTOOLS).evaluate(right, found)
  return {
    name: 100 * scores[name].f1
    for name in METRICS
    if all(_is_filled(predicted, own) for own in _COMPARES.get(name, ()))
  }


def _is_filled(sentences: Sequence[Sentence], column: str) -> bool:
  """Returns whether any word has something in a column."""
  return any(set(own.column(column)) - {_NOTHING} for own in sentences)


def _load(sentences: Sequence[Sentence]) -> Any:
  """Returns sentences as udtools has them.

  Where HEAD is empty, the trees are made up, since it reads no others.
  """
  trees = _is_filled(sentences, "HEAD")
  plain = []
  for sentence in sentences:
    count = len(sentence.words)
    columns = {"DEPS": [_NOTHING] * count}  # It may refuse what it finds there.
    if not trees:
      columns["HEAD"] = ["0", *["1"] * (count - 1)]
      columns["DEPREL"] = ["root", *["dep"] * (count - 1)]
    plain.append(sentence.with_columns(columns))
  scoring.check(plain)
  return scoring.load(plain, sentences[0].name)


class _Text:
  """The text of a file: the characters of its tokens, without spaces.

  Attributes:
    characters: all of them.
  """

  def __init__(self, sentences: Sequence[Sentence], loaded: Any) -> None:
    self.characters = "".join(loaded.characters)
    self._places = [place for own in sentences for place in _places(own)]
    self._ends = [token.end for token in loaded.tokens]

  def place(self, index: int) -> str:
    """Returns FILE:LINE of a character; of the last one if there are fewer."""
    token = bisect.bisect_right(self._ends, index)
    return self._places[min(token, len(self._places) - 1)]

  def rest(self, index: int) -> str:
    """Returns the characters from one on, in quotes, for a message."""
    rest = self.characters[index : index + _AROUND]
    return repr(rest) if rest else "nothing more"


def _places(sentence: Sentence) -> Iterator[str]:
  """Yields FILE:LINE of every token, as udtools counts them."""
  inside = 0  # id of the last word of the multiword token
  for row, number in zip(sentence.rows, sentence.numbers, strict=True):
    if len(row) == 1 or "." in row[0]:
      continue
    first, _, last = row[0].partition("-")
    if last or int(first) > inside:
      yield f"{sentence.name}:{number}"
    inside = int(last) if last else inside


def _other_text(gold: _Text, predicted: _Text) -> UserError:
  """Returns an error that shows where two texts begin to differ."""
  pairs = zip(gold.characters, predicted.characters, strict=False)
  shorter = min(len(gold.characters), len(predicted.characters))
  index = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
  before = gold.characters[max(index - _AROUND, 0) : index]
  where = f"after {before!r}" if before else "at the start"
  return UserError(
    f"{predicted.place(index)}: the text is another one than that of "
    f"{gold.place(index)}: {where} comes {predicted.rest(index)}, and in the "
    f"gold file {gold.rest(index)}. Expected the same text in both, apart from "
    "spaces and line ends: give the program the raw text of the gold file, and "
    "let it write every character of it."
  )
