"""Pieces that encoder families share.

Weights carry *logical* axis names (embed, heads, mlp, vocab, layers);
`time_jax.parallel.sharding` alone knows which mesh axis each one is laid on.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from time_jax.core.arrays import Ids
from time_jax.core.errors import UserError
from time_jax.models.sharded_embedding import lookup
from time_jax.parallel import sharding


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Exact GELU. Flax defaults to the tanh form, which is 1e-3 away.

  XLA computes erf on a CPU in less than half of the time of erfc, by which
  JAX has it. In 16 bits 1 + erf would have no digits left below zero.
  """
  if x.dtype != jnp.float32:
    return nn.gelu(x, approximate=False)
  return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS = {
  "gelu": gelu,
  "gelu_new": functools.partial(nn.gelu, approximate=True),
  "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
  "relu": nn.relu,
  "silu": nn.silu,
  "tanh": jnp.tanh,
}


def check_shape(*, hidden_size: int, num_heads: int, activation: str) -> None:
  """Raises UserError for a network that cannot be built."""
  if hidden_size % num_heads:
    raise UserError(
      f"num_heads={num_heads} must divide hidden_size={hidden_size}."
    )
  if activation not in ACTIVATIONS:
    raise UserError(
      f"activation {activation!r} is unknown; known: {', '.join(ACTIVATIONS)}."
    )


def dense(
  features: int,
  axes: tuple[str, str],
  name: str | None = None,
  *,
  stddev: float,
  dtype: DTypeLike,
  use_bias: bool = True,
) -> nn.Dense:
  """A linear layer with orthodox BERT initialisation, N(0, stddev)."""
  kernel = nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)
  bias = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=kernel,
    bias_init=bias,
    name=name,
  )


class Embed(nn.Module):
  """A table whose rows are cast after they are looked up.

  `nn.Embed` casts the table first: a copy of it in every step, and its gradient
  summed in the dtype of computation. A frequent token has thousands of terms
  there, which bfloat16 cannot add up.

  Attributes:
    rows: of the table. No row is special: padding is masked out.
    features: width of a row.
    axis: logical name of the rows.
    stddev: of fresh weights.
    dtype: of what is looked up.
  """

  rows: int
  features: int
  axis: str
  stddev: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, ids: Int[Array | np.ndarray, "..."]
  ) -> Float[Array, "... D"]:
    """Looks up a row for every id."""
    init = nn.with_logical_partitioning(
      nn.initializers.normal(self.stddev), (self.axis, "embed")
    )
    # A device may hold some columns only, which `param` would refuse.
    table: Any = nn.meta.unbox(self.get_variable("params", "embedding"))
    if table is None:
      table = self.param("embedding", init, (self.rows, self.features))
    # What is looked up in a small table is more than all of it.
    if self.axis == "vocab":
      return lookup(table, ids, self.features, self.dtype)
    return jnp.take(table, ids, axis=0).astype(self.dtype)


class Dropout(nn.Module):
  """Dropout that draws for each row of the batch, and so the same on any mesh.

  Attributes:
    rate: the part that is dropped.
  """

  rate: float

  @nn.compact
  def __call__(
    self, x: Float[Array, "B ..."], *, deterministic: bool
  ) -> Float[Array, "B ..."]:
    """Drops of a batch of rows."""
    if deterministic or not self.rate:
      return x
    rng, kept = self.make_rng("dropout"), 1 - self.rate

    def keep(row: Int[Array, ""]) -> Bool[Array, "..."]:
      key = jax.random.fold_in(rng, row)
      return jax.random.bernoulli(key, kept, x.shape[1:])

    rows = sharding.row_numbers(x.shape[0])
    return jnp.where(jax.vmap(keep)(rows), x / kept, 0)


def layer_norm(
  epsilon: float,
  *,
  dtype: DTypeLike,
  use_scale: bool = True,
  use_bias: bool = True,
) -> nn.LayerNorm:
  """LayerNorm; its mean and variance are taken in float32 by Flax.

  Two-pass variance, as PyTorch has it: E[x^2] - E[x]^2 loses digits.
  """
  ones, zeros = nn.initializers.ones, nn.initializers.zeros
  return nn.LayerNorm(
    epsilon,
    dtype=dtype,
    use_fast_variance=False,
    use_scale=use_scale,
    use_bias=use_bias,
    scale_init=nn.with_logical_partitioning(ones, ("embed",)),
    bias_init=nn.with_logical_partitioning(zeros, ("embed",)),
  )


def rms_norm(epsilon: float, *, dtype: DTypeLike) -> nn.RMSNorm:
  """RMSNorm: x / sqrt(mean(x^2) + epsilon), in float32, and a scale."""
  ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
  return nn.RMSNorm(epsilon, dtype=dtype, scale_init=ones)


def document_mask(segment_ids: Ids) -> Bool[Array, "B 1 T T"]:
  """True where a query may see a key: both real, both of one document."""
  return nn.make_attention_mask(
    segment_ids, segment_ids, jnp.equal, dtype=bool
  ) & nn.make_attention_mask(segment_ids > 0, segment_ids > 0, dtype=bool)


def split_heads(
  x: Float[Array, "... D"], num_heads: int
) -> Float[Array, "... N H"]:
  """Cuts the last axis into heads that lie side by side."""
  return x.reshape(*x.shape[:-1], num_heads, -1)
