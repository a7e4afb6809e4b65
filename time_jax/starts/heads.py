r"""What becomes of attention heads where they are fewer or narrower.

A head of width H becomes one of width h by two maps, with f = (h / H)^(1/4):

  q' = f q A,  k' = f k A,  v' = f v Av,  Wo' = f^-1 Av' Wo

A is shared by queries and keys, so that q' k' / sqrt(h) = q A A' k / sqrt(H)
and relations among queries and among keys keep their meaning, too; Av is of its
own. Both hold the directions with most energy. MoDeGPT (arXiv 2408.09632)
decomposes Wv Wo in place of v, which is better for the output alone, but bends
the relations among values.

Where h = H a head stays as it is. Where h > H the rest of it is left empty.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

Cut = Float[np.ndarray, "T N H"]


@dataclasses.dataclass(frozen=True)
class Heads:
  """Maps from the heads of a wide network to those of a narrow one.

  Attributes:
    kept: the wide network's heads that the narrow one has.
    query: of queries and keys.
    value: of values.
    out: from the narrow heads' output to the wide ones', for what follows them.
  """

  kept: list[int]
  query: Float[np.ndarray, "D d"]
  value: Float[np.ndarray, "D d"]
  out: Float[np.ndarray, "d D"]


def narrow(
  query: Cut, key: Cut, value: Cut, kept: list[int], width: int
) -> Heads:
  """Returns the maps by which a block's heads become narrower.

  Args:
    query: queries of T tokens, cut into heads.
    key: their keys.
    value: their values.
    kept: heads to keep.
    width: h.
  """
  number, wide = query.shape[1:]
  factor = (width / wide) ** 0.25
  ones = np.zeros((number * wide, len(kept) * width))
  maps = Heads(kept, ones, ones.copy(), ones.T.copy())
  for place, head in enumerate(kept):
    both = _unit(_moment(query[:, head])) + _unit(_moment(key[:, head]))
    old = slice(head * wide, (head + 1) * wide)
    new = slice(place * width, (place + 1) * width)
    of_values = _strongest(_moment(value[:, head]), width)
    maps.query[old, new] = factor * _strongest(both, width)
    maps.value[old, new] = factor * of_values
    maps.out[new, old] = of_values.T / factor
  return maps


def energies(
  mixed: Cut, kernel: Float[np.ndarray, "X D"]
) -> Float[np.ndarray, " N"]:
  """Returns how much each head moves what follows: variance of its addition.

  Args:
    mixed: output of the heads.
    kernel: of the layer that adds them to the residual path.
  """
  number, wide = mixed.shape[1:]
  parts = kernel.reshape(number, wide, -1)
  centred = mixed - mixed.mean(0)
  return np.array(
    [
      np.sum((_moment(centred[:, head]) @ own) * own)
      for head, own in enumerate(parts)
    ]
  )


def _moment(x: Float[np.ndarray, "T H"]) -> Float[np.ndarray, "H H"]:
  x = x.astype(np.float64)
  return x.T @ x


def _unit(moment: Float[np.ndarray, "H H"]) -> Float[np.ndarray, "H H"]:
  return moment / max(np.trace(moment), np.finfo(np.float64).tiny)


def _strongest(
  moment: Float[np.ndarray, "H H"], width: int
) -> Float[np.ndarray, "H h"]:
  """Returns the directions with most energy, as columns, then empty ones."""
  wide = len(moment)
  if width >= wide:
    return np.eye(wide, width)
  return np.linalg.eigh(moment)[1][:, ::-1][:, :width]
