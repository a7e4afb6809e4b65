"""Attention tile by tile, so that all T x T scores are never held at once.

A tile is several rows, some heads of a row, or some queries of a head: the code
is written for one query, and as many queries are computed at once as fit. Heads
are transposed to the front first: on a CPU, XLA multiplies contiguous
matrices several times faster than the strided ones of an einsum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import MASKED
from time_jax.models.attention_operands import (
  Operands,
  Settings,
  at_least_float32,
  row_of_document_mask,
  split_heads,
)
from time_jax.models.dropout import is_kept


class _Head(NamedTuple):
  """Operands of one head of one row: [T, H] each, bias [T, T]."""

  number: Array
  query: Array
  key: Array
  value: Array
  bias: Array | None


class _Query(NamedTuple):
  """Operands of one query of one head: [H], and [T] for mask and bias."""

  position: Array
  query: Array
  mask: Any
  bias: Array | None


def attend_tiled(
  max_scores: int, settings: Settings, operands: Operands
) -> Float[Array, "B T D"]:
  """Computes attention with no more than so many scores at a time.

  Args:
    max_scores: scores in a tile; those of one query are the least.
    settings: of the whole call, see `attention.attend`.
    operands: of all rows and heads, or of one device.
  """
  length, num_heads = operands.qkv.query.shape[1], len(operands.heads)
  head_dim = operands.qkv.query.shape[-1] // num_heads
  # One bias of all rows is not cut into rows: its gradient is summed over them.
  one_bias = operands.bias is not None and len(operands.bias) == 1
  per_row = operands._replace(
    heads=None,
    window=None,
    bias=None if one_bias else operands.bias,
    dropout_key=None,
  )

  def attend_row(row: Operands) -> Float[Array, "T D"]:
    def split(x: Float[Array, "T D"], repeats: int) -> Float[Array, "N T H"]:
      x_NTH = split_heads(x, x.shape[-1] // head_dim).swapaxes(0, 1)
      return jnp.repeat(x_NTH, repeats, axis=0)

    def attend_head(head: _Head) -> Float[Array, "T H"]:
      def attend_query(x: _Query) -> Float[Array, " H"]:
        keep = None
        if operands.dropout_key is not None:
          place = row.rows, head.number, x.position
          rate = settings.dropout_rate
          keep = is_kept(operands.dropout_key, rate, length, *place)
        if x.mask is None:
          ids, window = row.segment_ids, operands.window
          x = x._replace(mask=row_of_document_mask(ids, window, x.position))
        return _attend_query(settings, x, head.key, head.value, keep)

      queries = _Query(
        position=jnp.arange(length),
        query=head.query,
        mask=None if row.matrix is None else row.matrix[0],
        bias=head.bias,
      )
      return _map(attend_query, queries, max_scores // length)

    heads = _Head(
      number=operands.heads,
      query=split(row.qkv.query, 1),
      key=split(row.qkv.key, settings.sharing),
      value=split(row.qkv.value, settings.sharing),
      bias=operands.bias[0] if one_bias else row.bias,
    )
    mixed_NTH = _map(attend_head, heads, max_scores // length**2)
    return mixed_NTH.swapaxes(0, 1).reshape(length, -1)

  return _map(attend_row, per_row, max_scores // (num_heads * length**2))


def _map(function: Callable[..., Array], xs: Any, batch_size: int) -> Array:
  """Maps over the first axis, up to `batch_size` at once.

  The gradient computes each call again, rather than keep its results.
  """
  size = len(jax.tree.leaves(xs)[0])
  batch_size = min(max(batch_size, 1), size)
  divisor = max(d for d in range(1, batch_size + 1) if size % d == 0)
  # A remainder is compiled by itself: only where much would be lost without.
  batch_size = divisor if 2 * divisor > batch_size else batch_size
  return jax.lax.map(jax.checkpoint(function), xs, batch_size=batch_size)


def _attend_query(
  settings: Settings,
  x: _Query,
  key: Float[Array, "S H"],
  value: Float[Array, "S H"],
  keep: Bool[Array, " S"] | None,
) -> Float[Array, " H"]:
  """Attends from one query.

  The sum of weighted values is normalised, and not the weights: it has H
  numbers where they are S.
  """
  wide = at_least_float32(x.query)
  logits = jnp.matmul(
    x.query * settings.scale, key.T, preferred_element_type=wide
  )
  if x.bias is not None:
    logits += x.bias
  logits = jnp.where(x.mask, logits, MASKED)
  weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits)))
  total = jnp.sum(weights)
  if keep is not None:
    weights = jnp.where(keep, weights, 0)
    total *= 1 - settings.dropout_rate
  mixed = jnp.matmul(
    weights.astype(value.dtype), value, preferred_element_type=wide
  )
  return (mixed / total).astype(x.query.dtype)
