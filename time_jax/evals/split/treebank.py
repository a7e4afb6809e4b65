"""The raw text of a treebank: its tokens with the spaces between them."""

import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from time_jax.evals.split.passage import Passage, Token, one_line
from time_jax.evals.ud import conllu
from time_jax.evals.ud.conllu import Sentence

_BREAK = re.compile(r"#\s*new(par|doc)\b")


def read(path: pathlib.Path) -> list[Passage]:
  """Returns the passages of a file of CoNLL-U; see `passages`.

  Raises:
    UserError: the file is missing or is not CoNLL-U; trees are not needed.
  """
  return passages(conllu.read(path, trees=False))


def passages(sentences: Iterable[Sentence]) -> list[Passage]:
  """Returns the text of sentences; a passage begins at `# newpar`, `# newdoc`.

  Sentences of a passage stand one after another as SpaceAfter has it. So a
  treebank without these marks is one passage. White space at the ends of a FORM
  stands between tokens.
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
    own = []
    for form, words, space in tokens(sentence):
      surface = form.strip()
      before, _, after = form.partition(surface)
      start = place + len(before)
      stop = start + len(surface)
      own.append(Token(start, stop, words))
      parts += [before, surface, after + space]
      place = stop + len(after) + len(space)
    found.append(tuple(own))
  name = f"{sentences[0].name}:{sentences[0].numbers[0]}"
  # Nothing stands after the last token.
  return Passage("".join(parts[:-1]), tuple(found), name)


def tokens(
  sentence: Sentence,
) -> Iterator[tuple[str, tuple[str, ...], str]]:
  """Yields the form, the words, and the space after it, of each token.

  Args:
    sentence: a sentence, whose ranges are tokens of several words.
  """
  rows = iter([row for row in sentence.rows if len(row) > 1])
  for row in rows:
    ids, form, misc = row[0], row[1], row[-1]
    if "." in ids:  # a word that is not in the text
      continue
    words: tuple[str, ...] = (one_line(form),)
    if "-" in ids:
      first, last = map(int, ids.split("-"))
      own = (r for r in rows if "." not in r[0])
      some = itertools.islice(own, last - first + 1)
      words = tuple(one_line(r[1]) for r in some)
    space = "" if "SpaceAfter=No" in misc.split("|") else " "
    yield form, words, space
