"""Pieces that encoder families share.

Weights carry *logical* axis names (embed, heads, mlp, vocab, layers);
`time_jax.sharding` alone knows which mesh axis each one is laid on.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from time_jax.arrays import Ids

ACTIVATIONS = {
  # Exact erf. Flax defaults to the tanh form, which is 1e-3 away.
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_new": functools.partial(nn.gelu, approximate=True),
  "relu": nn.relu,
  "silu": nn.silu,
}


def dense(
  features: int,
  axes: tuple[str, str],
  name: str | None = None,
  *,
  stddev: float,
  dtype: DTypeLike,
) -> nn.Dense:
  """A biased linear layer with orthodox BERT initialisation, N(0, stddev)."""
  kernel = nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)
  bias = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
  return nn.Dense(
    features, dtype=dtype, kernel_init=kernel, bias_init=bias, name=name
  )


def embed(
  rows: int, features: int, axis: str, *, stddev: float, dtype: DTypeLike
) -> nn.Embed:
  """A table of `rows` vectors. No row is special: padding is masked out."""
  init = nn.with_logical_partitioning(
    nn.initializers.normal(stddev), (axis, "embed")
  )
  return nn.Embed(rows, features, dtype=dtype, embedding_init=init)


def layer_norm(epsilon: float, *, dtype: DTypeLike) -> nn.LayerNorm:
  """LayerNorm; its mean and variance are taken in float32 by Flax.

  Two-pass variance, as PyTorch has it: E[x^2] - E[x]^2 loses digits.
  """
  ones, zeros = nn.initializers.ones, nn.initializers.zeros
  return nn.LayerNorm(
    epsilon,
    dtype=dtype,
    use_fast_variance=False,
    scale_init=nn.with_logical_partitioning(ones, ("embed",)),
    bias_init=nn.with_logical_partitioning(zeros, ("embed",)),
  )


def document_mask(segment_ids: Ids) -> Bool[Array, "B 1 T T"]:
  """True where a query may see a key: both real, both of one document."""
  return nn.make_attention_mask(
    segment_ids, segment_ids, jnp.equal, dtype=bool
  ) & nn.make_attention_mask(segment_ids > 0, segment_ids > 0, dtype=bool)


def attend(
  query: Float[Array, "B T D"],
  key: Float[Array, "B T D"],
  value: Float[Array, "B T D"],
  mask: Bool[Array, "B 1 T T"],
  *,
  num_heads: int,
  dropout_rng: Array | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = True,
) -> Float[Array, "B T D"]:
  """Multi-head dot-product attention with the softmax in float32.

  Args:
    query: projections before the split into heads; likewise key and value.
    key: see query.
    value: see query.
    mask: True where attention is allowed.
    num_heads: N.
    dropout_rng: key, needed unless deterministic.
    dropout_rate: on the attention probabilities.
    deterministic: whether dropout is off.
  """

  def split(x: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
    return x.reshape(*x.shape[:2], num_heads, -1)

  mixed_BTNH = nn.dot_product_attention(
    split(query),
    split(key),
    split(value),
    mask=mask,
    broadcast_dropout=False,
    force_fp32_for_softmax=True,
    dropout_rng=dropout_rng,
    dropout_rate=dropout_rate,
    deterministic=deterministic,
  )
  return mixed_BTNH.reshape(query.shape)
