"""Tokens that begin within an atom: they cannot be learnt."""

import bisect
from collections.abc import Iterator, Sequence

import jax

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.evals.split.atoms import find_atoms
from time_jax.evals.split.passage import Passage

_MOST = 0.2  # of the tokens of a training file


def check(passages: Sequence[Passage]) -> None:
  """Notes that some tokens of a training file cannot be learnt.

  Raises:
    UserError: more than a fifth of them cannot.
  """
  total = sum(len(x) for passage in passages for x in passage.sentences)
  inner = [found for passage in passages for found in _inner(passage)]
  if not inner:
    return
  token, atom = inner[0]
  name = passages[0].name.rpartition(":")[0] or passages[0].name
  found = (
    f"{name}: {len(inner):,} of {total:,} tokens begin within a run of letters "
    f"or digits, such as {token!r:.40} in {atom!r:.40}"
  )
  if len(inner) > _MOST * total:
    raise UserError(
      f"{found}; expected at most {_MOST:.0%}, since text is split at spaces, "
      "at punctuation, between letters and digits, and around each letter of "
      "scripts without spaces, such as Han or Thai. Split this language by "
      "another tokenizer: `predict` without --split reads CoNLL-U, and words "
      "with spaces between them."
    )
  if jax.process_index() == 0:
    note(
      f"{found}. They are taught, and later found, as a part of the token "
      "before."
    )


def _inner(passage: Passage) -> Iterator[tuple[str, str]]:
  """Yields the tokens that begin within an atom, each with the atom."""
  atoms = find_atoms(passage.text)
  starts = [atom.start for atom in atoms]
  for token in (token for tokens in passage.sentences for token in tokens):
    place = bisect.bisect_right(starts, token.start) - 1
    if starts[place] != token.start:
      atom = atoms[place]
      yield (
        passage.text[token.start : token.stop],
        passage.text[atom.start : atom.stop],
      )
