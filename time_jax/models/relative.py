"""Relative positions: the bucket of a distance, and its scores.

A distance depends on two columns of a row alone, so tables of distances are
constants, the same for all rows, heads and layers. Between the documents of a
row they mean nothing, but there the mask hides them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import Qkv
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask, split_heads

Distances = Any  # An integer array of any shape, on the host.


def log_buckets(
  distances: Distances, num_buckets: int, max_positions: int
) -> np.ndarray:
  """Returns signed buckets of DeBERTa (arXiv 2006.03654) and LTG-BERT.

  There is one for each distance up to half of `num_buckets`; then they grow
  wider, up to `num_buckets - 1` at the distance `max_positions - 1`.

  Args:
    distances: query minus key.
    num_buckets: buckets of one sign.
    max_positions: distances from here on share or exceed the last bucket.
  """
  middle = num_buckets // 2
  size = np.maximum(np.abs(distances), 1)
  growth = np.log(size / middle) / np.log((max_positions - 1) / middle)
  far = middle + np.ceil(growth * (middle - 1))
  near = np.abs(distances) <= middle
  return np.where(near, distances, np.sign(distances) * far).astype(np.int32)


def t5_buckets(
  distances: Distances, num_buckets: int, max_distance: int
) -> np.ndarray:
  """Returns T5's buckets (arXiv 1910.10683), half of them for keys ahead.

  Args:
    distances: key minus query.
    num_buckets: buckets of both signs.
    max_distance: distances from here on share the last bucket.
  """
  half = num_buckets // 2
  exact = half // 2
  size = np.abs(distances)
  growth = np.log(np.maximum(size, 1) / exact) / np.log(max_distance / exact)
  far = np.minimum(exact + (growth * (half - exact)).astype(np.int32), half - 1)
  ahead = np.where(np.asarray(distances) > 0, half, 0)
  return (ahead + np.where(size < exact, size, far)).astype(np.int32)


class Shared(NamedTuple):
  """What blocks with disentangled attention share.

  Attributes:
    table: a row for each relative position, with a LayerNorm if there is one.
    mask: which keys a query sees.
  """

  table: Float[Array, "rows D"]
  mask: Mask


def attend_disentangled(
  qkv: Qkv,
  mask: Mask,
  config: Any,
  table_query: Float[Array, "rows N H"] | None,
  table_key: Float[Array, "rows N H"] | None,
) -> Float[Array, "B T D"]:
  """Attends by content and by relative position, see `disentangled_scores`.

  Args:
    qkv: projections before the split into heads.
    mask: which keys a query sees.
    config: the family's config, whose `row_of` maps distances to rows of the
      relative table.
    table_query: queries of the relative table; None without that term.
    table_key: keys of the relative table; None without that term.
  """
  num_heads = config.num_heads
  scores = disentangled_scores(
    split_heads(qkv.query, num_heads),
    split_heads(qkv.key, num_heads),
    table_query,
    table_key,
    config.row_of,
  )
  # Each term has the variance of H products.
  terms = 1 + (table_query is not None) + (table_key is not None)
  scale = (terms * config.head_dim) ** -0.5
  return attend(
    qkv, mask, num_heads=num_heads, scale=scale, bias=scores * scale
  )


def disentangled_scores(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B T N H"],
  table_query: Float[Array, "rows N H"] | None,
  table_key: Float[Array, "rows N H"] | None,
  row_of: Callable[[Distances], np.ndarray],
) -> Float[Array, "B N T T"]:
  """Adds content-to-position and position-to-content scores, unscaled.

    q_i . table_key[row(i - j)]  +  k_j . table_query[row(i - j)]

  Args:
    query: queries of the content.
    key: keys of the content.
    table_query: queries of the relative table; None leaves the second term out.
    table_key: keys of the relative table; None leaves the first term out.
    row_of: returns rows of the table for distances (query minus key).

  References:
    He et al., DeBERTa, arXiv 2006.03654, equation 4.
  """
  steps = np.arange(query.shape[1])
  ahead = np.concatenate([-steps[:0:-1], steps])  # -(T - 1) ... T - 1
  total: Any = 0.0
  if table_key is not None:
    total += _slide(_scores(query, table_key[row_of(-ahead)]))
  if table_query is not None:
    scores = _slide(_scores(key, table_query[row_of(ahead)]))
    total += scores.swapaxes(-1, -2)
  return total


def _scores(
  x_BTNH: Float[Array, "B T N H"], table_ENH: Float[Array, "E N H"]
) -> Float[Array, "B N T E"]:
  wide = jnp.promote_types(x_BTNH.dtype, jnp.float32)
  return jnp.einsum(
    "BTNH,ENH->BNTE", x_BTNH, table_ENH, preferred_element_type=wide
  )


def _slide(x: Float[Array, "B N T E"]) -> Float[Array, "B N T T"]:
  """Returns x[i, j - i + T - 1] at (i, j): columns for E = 2T - 1 distances.

  Every row starts one place before the one above: one reshape of the flat
  array does what a gather of T x T elements would.
  """
  *batch, length, width = x.shape
  if length == 1:
    return x
  flat = x.reshape(*batch, length * width)
  flat = flat[..., length - 1 : length - 1 + length * (width - 1)]
  return flat.reshape(*batch, length, width - 1)[..., :length]
