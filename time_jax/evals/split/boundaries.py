"""Tokens, words and sentences as classes of atoms, and back.

A class of `BOUNDARY` depends on whether spaces stand before and after an atom,
which subwords do not tell. So each of these four gaps has classes of its own.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from time_jax.evals.common.word_tokens import Labels
from time_jax.evals.split.passage import Passage, Token, one_line
from time_jax.evals.split.reading import Reading
from time_jax.evals.ud.edit_scripts import apply_script, is_script, script_of

BOUNDARY = "BOUNDARY"
# An atom goes on with a token, begins one, or begins a sentence.
JOIN, TOKEN, SENTENCE = range(3)
KINDS = ("join", "token", "sentence")
WORDS = "WORDS"  # edit scripts from a token to its words; of no other atom
WHOLE = ""  # the class of a token that is its only word

Classes = Mapping[str, Sequence[str]]  # name -> classes, common ones first


def learn(passages: Sequence[Passage]) -> dict[str, list[str]]:
  """Returns the classes of a training file."""
  counts: collections.Counter[str] = collections.Counter()
  for passage in passages:
    counts.update(script for _, script in _scripts(passage))
  names = sorted(counts, key=lambda name: (-counts[name], name))
  return {BOUNDARY: [*KINDS], WORDS: names if names != [WHOLE] else []}


def check(classes: Classes) -> None:
  """Checks the classes of a file, which `assemble` applies to any text.

  Raises:
    ValueError: one is no edit script. Who opens the file says which one it is.
  """
  for script in classes[WORDS]:
    if script != WHOLE and not (isinstance(script, str) and is_script(script)):
      raise ValueError(
        f"{script!r:.60} is a class of {WORDS}, where edit scripts such as "
        "'|*-+e+ +l+e' are expected"
      )


def _scripts(passage: Passage) -> list[tuple[Token, str]]:
  """Returns the tokens of a passage, each with the class of its words."""
  found = []
  for token in (token for tokens in passage.sentences for token in tokens):
    form = one_line(passage.text[token.start : token.stop])
    whole = token.words == (form,)
    script = WHOLE if whole else script_of(form, " ".join(token.words))
    found.append((token, script))
  return found


def targets(passage: Passage, reading: Reading, classes: Classes) -> Labels:
  """Returns the class of each atom: -1 where there is none.

  A token that begins within an atom is a part of the one before it; see
  `inner_tokens`.

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
    words = _words(one_line(text[token.start : token.stop]), script)
    sentences[-1].append(token._replace(words=words))
  return tuple(map(tuple, sentences))


def _words(form: str, script: str) -> tuple[str, ...]:
  """Returns the words of a token, itself if the script does not fit it."""
  words = apply_script(script, form).split() if script != WHOLE else []
  # A script with a space is one of several words.
  fits = len(words) > 1 or (words and " " not in script)
  return tuple(words) if fits else (form,)
