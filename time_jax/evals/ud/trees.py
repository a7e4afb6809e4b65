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
  search = load_package(CHU_LIU_EDMONDS).chu_liu_edmonds
  heads = _tree_of_best_heads(scores)
  if heads is None:
    count = len(scores)
    matrix = np.zeros((count + 1, count + 1))
    matrix[1:] = scores
    matrix[1:, 0] -= 1 + count * np.ptp(scores)
    np.fill_diagonal(matrix, np.nan)  # No edge.
    heads = np.asarray(search(matrix)[0][1:])
  return heads.astype(np.int32)


def _tree_of_best_heads(
  scores: Float[np.ndarray, "n n+1"],
) -> Int[np.ndarray, " n"] | None:
  """Returns the best head of each word if these are a tree with one root.

  No tree is better then, and no search is needed: so it is for most sentences.
  Where two heads are equally good, the search has to choose.
  """
  count = len(scores)
  edges = scores.copy()
  np.fill_diagonal(edges[:, 1:], -np.inf)
  heads = edges.argmax(axis=1)
  if np.count_nonzero(heads) != count - 1:
    return None
  if np.count_nonzero(edges == edges.max(axis=1, keepdims=True)) > count:
    return None
  above = np.concatenate([[0], heads])  # of the root, which stays, and words
  for _ in range(count.bit_length()):
    above = above[above]  # twice as far up
  return None if above.any() else heads
