"""Finds the best dependency tree with exactly one root."""

import numpy as np
from jaxtyping import Float, Int

from time_jax.evals.common.packages import CHU_LIU_EDMONDS, load_package


def best_tree(scores: Float[np.ndarray, "n n+1"]) -> Int[np.ndarray, " n"]:
  """Returns the maximum spanning tree among those with a single root.

  `ufal.chu_liu_edmonds` finds the best tree, which may have several roots.
  Taking the same amount from every score of the root leaves the order of the
  trees with one root as it is, and puts all others below them once it is more
  than any two trees can differ by (Stanojevic and Cohen, "A Root of a
  Problem", EMNLP 2021): one search is enough.

  Args:
    scores: the score of head j for word i + 1 in [i, j], finite; j = 0 is the
      root.

  Returns:
    The head of each word, 0 for the root.
  """
  count = len(scores)
  matrix = np.zeros((count + 1, count + 1))
  matrix[1:] = scores
  matrix[1:, 0] -= 1 + count * np.ptp(scores)
  np.fill_diagonal(matrix, np.nan)  # No edge.
  heads, _ = load_package(CHU_LIU_EDMONDS).chu_liu_edmonds(matrix)
  return np.asarray(heads[1:], np.int32)
