"""From head scores to a dependency tree with exactly one root."""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from time_jax.core.errors import UserError


def best_tree(
  scores: Float[np.ndarray, "n n+1"],
) -> Int[np.ndarray, " n"]:
  """The maximum spanning tree among those with a single root.

  `ufal.chu_liu_edmonds` finds the best tree, which may have several roots.
  Taking the same amount from every score of the root leaves the order of the
  trees with one root as it is, and puts all others below them once it is more
  than any two trees can differ by (Stanojevic and Cohen, "A Root of a
  Problem", EMNLP 2021): one search is enough.

  Args:
    scores: of word i + 1 under head j in [i, j], finite; j = 0 is the root.

  Returns:
    The head of every word, 0 for the root's.
  """
  count = len(scores)
  matrix = np.zeros((count + 1, count + 1))
  matrix[1:] = scores
  matrix[1:, 0] -= 1 + count * np.ptp(scores)
  np.fill_diagonal(matrix, np.nan)  # No edge.
  heads, _ = load_library().chu_liu_edmonds(matrix)
  return np.asarray(heads[1:], np.int32)


def load_library() -> Any:
  """ufal.chu_liu_edmonds; UserError where it is not installed."""
  try:
    return importlib.import_module("ufal.chu_liu_edmonds")
  except ImportError:
    raise UserError(
      "parsing needs the package ufal.chu_liu_edmonds, which is not "
      "installed; try: pip install -e '.[eval]' in the repository."
    ) from None
