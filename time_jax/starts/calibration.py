"""What an encoder computes of some rows of real text, part by part.

Everything is asked for on the host: a few thousand tokens are enough, and one
block's parts of them fit anywhere.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.models import layers
from time_jax.models.attention import attend
from time_jax.models.attention_operands import matrix_mask
from time_jax.models.bert import Block, BlockParts
from time_jax.models.encoder import Context
from time_jax.models.family import Params

# Tokens that go through a block at once: more would take memory, and no less
# time.
_TOKENS = 4096

States = Float[Array | np.ndarray, "B T D"]


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Rows of text, on the host.

  Attributes:
    rows: of one shape, padding included.
  """

  rows: Batch

  @functools.cached_property
  def real(self) -> Bool[np.ndarray, "B T"]:
    """Where there is a token."""
    return np.asarray(self.rows.segment_ids) > 0

  def tokens(
    self, x: Float[Array | np.ndarray, "B T X"]
  ) -> Float[np.ndarray, "K X"]:
    """Returns the values at real tokens only, in float64.

    Args:
      x: values for each place of the rows.
    """
    return np.asarray(x)[self.real].astype(np.float64)

  def embed(self, tables: Params, offset: int) -> States:
    """Adds up the three embeddings of every token.

    Args:
      tables: parameters "embeddings" of a BERT.
      offset: first row of its position table that is used.
    """
    rows = self.rows
    types = rows.token_types
    types = np.zeros_like(rows.tokens) if types is None else types
    word, position, token_type = (
      np.asarray(tables[name]["embedding"])
      for name in ("word", "position", "token_type")
    )
    x = word[np.asarray(rows.tokens)]
    x = x + position[np.asarray(rows.positions) + offset]
    return x + token_type[np.asarray(types)]

  def parts(self, block: Block, params: Params, x: States) -> BlockParts:
    """Computes all parts of a block.

    Args:
      block: the block, unbound.
      params: its parameters.
      x: its input.
    """
    return self._in_turn(functools.partial(_parts, block), x, params)

  def attend(self, qkv: Qkv, num_heads: int) -> States:
    """Computes attention without its output projection.

    Args:
      qkv: projections before the split into heads.
      num_heads: N.
    """
    return self._in_turn(functools.partial(_attend, num_heads), qkv)

  def _in_turn(self, call: Callable[..., Any], x: Any, *more: Any) -> Any:
    """Calls a function for some rows after the other."""
    segment_ids = np.asarray(self.rows.segment_ids)
    step = max(1, _TOKENS // segment_ids.shape[1])
    # The default of accelerators has three digits.
    with jax.default_matmul_precision("highest"):
      outputs = [
        jax.device_get(
          call(
            jax.tree.map(lambda leaf, i=i: leaf[i : i + step], x),
            segment_ids[i : i + step],
            *more,
          )
        )
        for i in range(0, len(segment_ids), step)
      ]
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *outputs)


def activate(x: States, name: str) -> States:
  """Applies an activation.

  Args:
    x: the inner half of a feed-forward layer.
    name: a key of `layers.ACTIVATIONS`.
  """
  return np.asarray(layers.ACTIVATIONS[name](jnp.asarray(x)))


def normalize(x: States, epsilon: float) -> States:
  """Computes a LayerNorm without scale and shift.

  Args:
    x: its input.
    epsilon: is added to the variance.
  """
  x = np.asarray(x, np.float64)
  centred = x - x.mean(-1, keepdims=True)
  variance = np.square(centred).mean(-1, keepdims=True)
  return (centred / np.sqrt(variance + epsilon)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _parts(block: Block, x: Any, segment_ids: Any, params: Params) -> Any:
  context = Context(matrix_mask(segment_ids), 0)
  return block.apply({"params": params}, x, context, method="parts")


@functools.partial(jax.jit, static_argnums=0)
def _attend(num_heads: int, qkv: Qkv, segment_ids: Any) -> Any:
  return attend(qkv, matrix_mask(segment_ids), num_heads=num_heads)
