"""Attention as it is defined: all scores of all heads and rows at once."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from time_jax.core.arrays import MASKED
from time_jax.models.attention_operands import (
  Operands,
  Settings,
  at_least_float32,
  split_heads,
)
from time_jax.models.dropout import is_kept


def attend_dense(
  settings: Settings, operands: Operands
) -> Float[Array, "B T D"]:
  """Computes attention of all heads of all rows, see `attention.attend`."""
  qkv, x = operands.qkv, operands
  query_BTNH = split_heads(qkv.query, settings.num_heads)
  key_BTNH, value_BTNH = (
    jnp.repeat(
      split_heads(each, settings.num_key_heads), settings.sharing, axis=2
    )
    for each in (qkv.key, qkv.value)
  )
  logits = jnp.einsum(
    "BTNH,BSNH->BNTS",
    query_BTNH * settings.scale,
    key_BTNH,
    preferred_element_type=at_least_float32(qkv.query),
  )
  if x.bias is not None:
    logits += x.bias
  logits = jnp.where(x.whole_matrix(), logits, MASKED)
  weights = jax.nn.softmax(logits, axis=-1)
  if x.dropout_key is not None:
    rate, length = settings.dropout_rate, weights.shape[-1]
    keep = functools.partial(is_kept, x.dropout_key, rate, length)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
      keep = jax.vmap(keep, axes)
    kept = keep(x.rows, x.heads, jnp.arange(length))
    weights = jnp.where(kept, weights / (1 - rate), 0)
  mixed = jnp.einsum(
    "BNTS,BSNH->BTNH", weights.astype(qkv.value.dtype), value_BTNH
  )
  return mixed.reshape(qkv.query.shape)
