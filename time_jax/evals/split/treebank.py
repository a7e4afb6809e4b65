"""The raw text of a treebank: its tokens with the spaces between them."""

import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from time_jax.evals.split.passage import Passage, Token
from time_jax.evals.ud import conllu
from time_jax.evals.ud.conllu import Sentence

_BREAK = re.compile(r"#\s*new(par|doc)\b")


def read(path: pathlib.Path) -> list[Passage]:
  """Returns the passages of a file of CoNLL-U; see `passages`.

  Raises:
    UserError: see `conllu.read`.
  """
  return passages(conllu.read(path))


def passages(sentences: Iterable[Sentence]) -> list[Passage]:
  """Returns the text of sentences; a passage begins at `# newpar`, `# newdoc`.

  Sentences of a passage stand one after another as SpaceAfter has it. So a
  treebank without these marks is one passage.
  """
  groups: list[list[Sentence]] = []
  for sentence in sentences:
    begins = any(_BREAK.match(row[0]) for row in sentence.rows if len(row) == 1)
    if begins or not groups:
      groups.append([])
    groups[-1].append(sentence)
  return [*map(_passage, groups)]


def _passage(sentences: Sequence[Sentence]) -> Passage:
  parts: list[str] = []
  place = 0
  found = []
  for sentence in sentences:
    tokens = []
    for surface, words, space in _tokens(sentence):
      tokens.append(Token(place, place + len(surface), words))
      parts += [surface, space]
      place += len(surface) + len(space)
    found.append(tuple(tokens))
  name = f"{sentences[0].name}:{sentences[0].numbers[0]}"
  return Passage("".join(parts).rstrip(), tuple(found), name)


def _tokens(
  sentence: Sentence,
) -> Iterator[tuple[str, tuple[str, ...], str]]:
  """Yields the form, the words, and the space after it, of each token."""
  rows = iter([row for row in sentence.rows if len(row) > 1])
  for row in rows:
    ids, form, misc = row[0], row[1], row[-1]
    if "." in ids:  # a word that is not in the text
      continue
    words: tuple[str, ...] = (form,)
    if "-" in ids:
      first, last = map(int, ids.split("-"))
      own = (r for r in rows if "." not in r[0])
      words = tuple(r[1] for r in itertools.islice(own, last - first + 1))
    space = "" if "SpaceAfter=No" in misc.split("|") else " "
    yield form, words, space
