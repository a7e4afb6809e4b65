"""Tokens, words and sentences as classes of atoms, and back.

A class of `BOUNDARY` depends on whether spaces stand before and after an atom,
which subwords do not tell. So each of these four gaps has classes of its own.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from time_jax.evals.common.word_tokens import Labels
from time_jax.evals.split.passage import Passage, Token
from time_jax.evals.split.reading import Reading
from time_jax.evals.ud.edit_scripts import apply_script, script_of

BOUNDARY = "BOUNDARY"
# An atom goes on with a token, begins one, or begins a sentence.
JOIN, TOKEN, SENTENCE = range(3)
KINDS = ("join", "token", "sentence")
GAPS = 4  # none, after, before, both
WORDS = "WORDS"  # edit scripts from a token to its words; of no other atom
WHOLE = ""  # the class of a token that is one word

Classes = Mapping[str, Sequence[str]]  # name -> classes, common ones first


def learn(passages: Sequence[Passage]) -> dict[str, list[str]]:
  """Returns the classes of a training file."""
  counts: collections.Counter[str] = collections.Counter()
  for passage in passages:
    counts.update(script for _, script in _scripts(passage))
  names = sorted(counts, key=lambda name: (-counts[name], name))
  return {BOUNDARY: [*KINDS], WORDS: names if len(names) > 1 else []}


def _scripts(passage: Passage) -> list[tuple[Token, str]]:
  """Returns the tokens of a passage, each with the class of its words."""
  return [
    (
      token,
      WHOLE
      if len(token.words) == 1
      else script_of(surface(passage.text, token), " ".join(token.words)),
    )
    for tokens in passage.sentences
    for token in tokens
  ]


def surface(text: str, token: Token) -> str:
  """Returns a token as it stands in the text; spaces within it are single."""
  return " ".join(text[token.start : token.stop].split())


def targets(passage: Passage, reading: Reading, classes: Classes) -> Labels:
  """Returns the class of each atom: -1 where there is none.

  A token that begins within an atom is a part of the one before it.

  Args:
    passage: a passage with its tokens.
    reading: its text.
    classes: see `learn`.
  """
  place = {atom.start: i for i, atom in enumerate(reading.atoms)}
  kinds = np.full(len(place), JOIN)
  scripts = np.full(len(place), -1)
  number = {script: i for i, script in enumerate(classes[WORDS])}
  for tokens in passage.sentences:
    if tokens[0].start in place:
      kinds[place[tokens[0].start]] = SENTENCE
  for token, script in _scripts(passage):
    if (i := place.get(token.start)) is not None:
      kinds[i] = max(kinds[i], TOKEN)
      scripts[i] = number.get(script, -1)
  found = {BOUNDARY: reading.gaps * len(KINDS) + kinds}
  return found | ({WORDS: scripts} if classes[WORDS] else {})


def assemble(
  reading: Reading, labels: Labels, classes: Classes
) -> tuple[tuple[Token, ...], ...]:
  """Returns the sentences of a text.

  Args:
    reading: the text.
    labels: of each atom, `BOUNDARY`, the scores of kinds for every gap, and
      `WORDS`, its class.
    classes: see `learn`.
  """
  text, atoms = reading.text, reading.atoms
  if not atoms:
    return ()
  scores = labels[BOUNDARY][np.arange(len(atoms)), reading.gaps]
  kinds = scores.argmax(axis=-1)
  kinds[:1] = SENTENCE
  firsts = np.flatnonzero(kinds != JOIN).tolist()
  sentences: list[list[Token]] = []
  for first, stop in zip(firsts, [*firsts[1:], len(atoms)], strict=False):
    if kinds[first] == SENTENCE:
      sentences.append([])
    token = Token(atoms[first].start, atoms[stop - 1].stop, ())
    script = classes[WORDS][labels[WORDS][first]] if WORDS in labels else WHOLE
    words = _words(surface(text, token), script)
    sentences[-1].append(token._replace(words=words))
  return tuple(map(tuple, sentences))


def _words(form: str, script: str) -> tuple[str, ...]:
  """Returns the words of a token, itself if the script makes no more of it."""
  words = apply_script(script, form).split() if script != WHOLE else []
  return tuple(words) if len(words) > 1 else (form,)
