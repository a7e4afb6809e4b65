r"""The directions of a wide network's states that a narrow one keeps.

States y of width D become y E of width d. All blocks add to one stream of
states, so E is the same for all of them; its columns are orthonormal.

`components` takes those in which the states have most energy, as SliceGPT does
(arXiv 2401.15024), and the all-ones direction, which a LayerNorm takes off. It
is turned so that the narrow network's LayerNorm takes off the same:

  E' E = I   and   E 1_d = sqrt(d / D) 1_D

With P for subtracting the mean over a token's units, P(y E) = P(y) E. What the
narrow LayerNorm makes of y E is then parallel to what E makes of the wide one's
output before its scale, and equal up to one factor where y lies in the basis.

`selection` takes units as they are, those with most energy (Minitron, arXiv
2407.14679): scales of LayerNorms stay exact, its mean does not.
"""

import numpy as np
from jaxtyping import Float

Basis = Float[np.ndarray, "D d"]


def components(moment: Float[np.ndarray, "D D"], width: int) -> Basis:
  """Returns principal components of centred states, and the ones.

  Args:
    moment: sum of y y' over states y.
    width: d, at most D.
  """
  wide = len(moment)
  if width == wide:
    return np.eye(wide)
  # The ones get the lowest eigenvalue, even where few states leave many zero.
  ones = np.full((wide, wide), 1 / wide)
  centre = np.eye(wide) - ones
  centred = centre @ moment @ centre
  _, vectors = np.linalg.eigh(centred - np.trace(moment) * ones)
  strongest = vectors[:, ::-1][:, : width - 1]
  plain = np.column_stack([np.full(wide, wide**-0.5), strongest])
  return plain @ _reflection(width)


def _reflection(width: int) -> Float[np.ndarray, "d d"]:
  """Returns a Householder matrix: its first column is ones / sqrt(width)."""
  normal = np.full(width, width**-0.5)
  normal[0] -= 1
  if width == 1:
    return np.eye(1)
  return np.eye(width) - 2 * np.outer(normal, normal) / (normal @ normal)


def selection(moment: Float[np.ndarray, "D D"], width: int) -> Basis:
  """Returns the columns of I for the units with most energy.

  Args:
    moment: sum of y y' over states y.
    width: d, at most D.
  """
  return np.eye(len(moment))[:, largest(np.diag(moment), width)]


def largest(values: Float[np.ndarray, " X"], count: int) -> list[int]:
  """Returns the places of the largest values, in their order in the network.

  Args:
    values: a number for each head or unit.
    count: how many to take; of equal ones the first.
  """
  return sorted(np.argsort(-values, kind="stable")[:count].tolist())


def share(moment: Float[np.ndarray, "D D"], basis: Basis) -> float:
  """Returns the share of the states' energy that lies in a basis.

  Args:
    moment: sum of y y' over states y.
    basis: E.
  """
  return float(np.trace(basis.T @ moment @ basis) / np.trace(moment))


BASES = {"components": components, "selection": selection}
