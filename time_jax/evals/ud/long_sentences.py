"""Joins the parts of sentences that were too long to be read at once."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from time_jax.evals.common.word_tokens import Chunk, Labels
from time_jax.evals.ud.labels import RELATION

# The relation of a later chunk of a sentence to the first one: "side by side,
# without a clearer relation" in UD.
_JOINT = "parataxis"


def join_chunks(
  chunks: Iterable[tuple[Chunk, Labels]], relations: Sequence[str]
) -> list[Labels]:
  """Returns the labels of whole sentences, from those of their chunks.

  Args:
    chunks: the chunks of all sentences, in order, with the labels of their
      words. HEAD counts in the chunk; in what is returned, in the sentence.
    relations: the classes of DEPREL.
  """
  by_sentence = itertools.groupby(chunks, lambda pair: pair[0].sentence)
  return [_whole([*parts], [*relations]) for _, parts in by_sentence]


def _whole(
  parts: Sequence[tuple[Chunk, Labels]], relations: list[str]
) -> Labels:
  """Returns the labels of a sentence, whose later chunks hang on the first."""
  (_, first), *later = parts
  if not later:
    return first
  root = int(np.flatnonzero(first["HEAD"] == 0)[0]) + 1
  joined = [first]
  for chunk, labels in later:
    heads = labels["HEAD"]
    moved = {"HEAD": np.where(heads > 0, heads + chunk.start, root)}
    if _JOINT in relations:
      joint = relations.index(_JOINT)
      moved[RELATION] = np.where(heads > 0, labels[RELATION], joint)
    joined.append({**labels, **moved})
  return {
    name: np.concatenate([labels[name] for labels in joined]) for name in first
  }
