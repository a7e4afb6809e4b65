"""Layers that encoder families share.

Weights carry *logical* axis names (embed, heads, mlp, vocab, layers);
`time_jax.parallel.sharding` alone knows which mesh axis each one is laid on.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import Ids
from time_jax.core.errors import UserError
from time_jax.models.sharded_embedding import lookup


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


Axes = tuple[str, str]

# Logical axes of the kernels of a block.
TO_HEADS: Axes = ("embed", "heads")
FROM_HEADS: Axes = ("heads", "embed")
TO_MLP: Axes = ("embed", "mlp")
FROM_MLP: Axes = ("mlp", "embed")


def check_activation(name: str) -> None:
  """Raises UserError unless there is such an activation."""
  if name not in ACTIVATIONS:
    raise UserError(
      f"activation {name!r} is unknown; known: {', '.join(ACTIVATIONS)}."
    )


def dense(
  features: int,
  axes: Axes,
  *,
  stddev: float,
  dtype: DTypeLike,
  use_bias: bool = True,
) -> nn.Dense:
  """Makes a linear layer initialised like BERT's, by N(0, stddev).

  Args:
    features: width of the output.
    axes: logical axes of the kernel, input first.
    stddev: of fresh weights.
    dtype: of computation.
    use_bias: whether it has a bias.
  """
  kernel = nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)
  bias = nn.with_logical_partitioning(nn.initializers.zeros, axes[1:])
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=kernel,
    bias_init=bias,
  )


class Embed(nn.Module):
  """A table whose rows are cast after they are looked up.

  `nn.Embed` casts the table first: a copy of it in every step, and its gradient
  summed in the dtype of computation. A frequent token has thousands of terms
  there, which bfloat16 cannot add up.

  Attributes:
    rows: number of rows. None is special: padding is masked out elsewhere.
    features: width of a row.
    axis: logical axis of the rows.
    stddev: of fresh weights.
    dtype: of the rows that are returned.
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
    """Returns a row for every id."""
    init = nn.with_logical_partitioning(
      nn.initializers.normal(self.stddev), (self.axis, "embed")
    )
    # A device may hold some columns only, which `param` would refuse.
    table: Any = nn.meta.unbox(self.get_variable("params", "embedding"))
    if table is None:
      table = self.param("embedding", init, (self.rows, self.features))
    # Exchanging rows pays for a large table only: those that a batch looks up
    # in a small one are more bytes than the table.
    if self.axis == "vocab":
      return lookup(table, ids, self.features, self.dtype)
    return jnp.take(table, ids, axis=0).astype(self.dtype)


class NormedWords(nn.Module):
  """Word embeddings, normed.

  Attributes:
    config: the family's frozen config.
    make_norm: makes the norm.
    dtype: of computation.
  """

  config: Any
  make_norm: Callable[[], nn.Module]
  dtype: DTypeLike

  def setup(self) -> None:  # noqa: D102
    c, dtype = self.config, self.dtype
    self.word = Embed(
      c.vocab_size, c.hidden_size, "vocab", c.initializer_range, dtype
    )
    self.norm = self.make_norm()

  def __call__(self, tokens: Ids) -> Float[Array, "B T D"]:
    """Looks every token up."""
    return self.norm(self.word(tokens))


def layer_norm(
  epsilon: float,
  *,
  dtype: DTypeLike,
  use_scale: bool = True,
  use_bias: bool = True,
) -> nn.LayerNorm:
  """Makes a LayerNorm, whose mean and variance Flax computes in float32.

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
  """Makes an RMSNorm: x / sqrt(mean(x^2) + epsilon), scaled, in float32."""
  ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
  return nn.RMSNorm(epsilon, dtype=dtype, scale_init=ones)
