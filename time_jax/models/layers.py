"""Layers that encoder families share.

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
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import Ids
from time_jax.core.errors import UserError
from time_jax.models.sharded_embedding import lookup


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Computes the exact GELU; Flax defaults to the tanh form, 1e-3 away.

  JAX computes it by erfc. On a CPU erf takes less than half of the time, but in
  16 bits 1 + erf would have no digits left below zero.

  For the gradient its slope is kept. That is one array of the widest layer's
  size; the parts of the formula, which JAX would keep, are three.
  """
  if x.dtype != jnp.float32:
    return nn.gelu(x, approximate=False)
  return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@gelu.defjvp
def _gelu_jvp(
  primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
  (x,), (change,) = primals, tangents
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  below = 0.5 * (1 + jax.lax.erf(wide * math.sqrt(0.5)))
  density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
  return gelu(x), (below + wide * density).astype(x.dtype) * change


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

_ZEROS, _ONES = nn.initializers.zeros, nn.initializers.ones


def check_activation(name: str) -> None:
  """Raises UserError unless there is such an activation."""
  if name not in ACTIVATIONS:
    raise UserError(
      f"activation {name!r} is unknown; known: {', '.join(ACTIVATIONS)}."
    )


class Embed(nn.Module):
  """A table whose rows are cast after they are looked up.

  `nn.Embed` casts the table first: a copy of it in every step, and its gradient
  summed in the dtype of computation. A frequent token has thousands of terms
  there, which bfloat16 cannot add up.

  Attributes:
    rows: number of rows, that of the padding token included: attention masks
      padding, so its row needs no treatment of its own.
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


class Parts:
  """Makes the parts of a module from its `config` and in its `dtype`."""

  config: Any
  dtype: DTypeLike

  def dense(self, features: int, axes: Axes, use_bias: bool = True) -> nn.Dense:
    """Makes a linear layer with a kernel from N(0, initializer_range).

    Args:
      features: width of the output.
      axes: logical axes of the kernel, input first.
      use_bias: whether it has a bias, which starts at zero.
    """
    normal = nn.initializers.normal(self.config.initializer_range)
    return nn.Dense(
      features,
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=nn.with_logical_partitioning(normal, axes),
      bias_init=nn.with_logical_partitioning(_ZEROS, axes[1:]),
    )

  def embed(self, rows: int, axis: str, features: int = 0) -> Embed:
    """Makes a table of embeddings, D wide unless `features` are given."""
    c = self.config
    features = features or c.hidden_size
    return Embed(rows, features, axis, c.initializer_range, self.dtype)

  def layer_norm(
    self, use_scale: bool = True, use_bias: bool = True
  ) -> nn.LayerNorm:
    """Makes a LayerNorm, whose mean and variance Flax computes in float32.

    The variance takes two passes, as in PyTorch: E[x^2] - E[x]^2 loses digits.

    Args:
      use_scale: whether it has a scale, which starts at one.
      use_bias: whether it has a bias, which starts at zero.
    """
    return nn.LayerNorm(
      self.config.layer_norm_eps,
      dtype=self.dtype,
      use_fast_variance=False,
      use_scale=use_scale,
      use_bias=use_bias,
      scale_init=nn.with_logical_partitioning(_ONES, ("embed",)),
      bias_init=nn.with_logical_partitioning(_ZEROS, ("embed",)),
    )

  def rms_norm(self) -> nn.RMSNorm:
    """Makes an RMSNorm: x / sqrt(mean(x^2) + epsilon), scaled, in float32."""
    scale = nn.with_logical_partitioning(_ONES, ("embed",))
    epsilon = self.config.layer_norm_eps
    return nn.RMSNorm(epsilon, dtype=self.dtype, scale_init=scale)


class NormedWords(Parts, nn.Module):
  """Word embeddings, followed by a LayerNorm.

  Attributes:
    config: the family's frozen config.
    dtype: of computation.
    use_scale: whether the LayerNorm has a scale.
    use_bias: whether it has a bias.
  """

  config: Any
  dtype: DTypeLike
  use_scale: bool = True
  use_bias: bool = True

  def setup(self) -> None:  # noqa: D102
    self.word = self.embed(self.config.vocab_size, "vocab")
    self.norm = self.layer_norm(self.use_scale, self.use_bias)

  def __call__(self, tokens: Ids) -> Float[Array, "B T D"]:
    """Looks every token up."""
    return self.norm(self.word(tokens))
