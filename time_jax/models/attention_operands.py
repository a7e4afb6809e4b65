"""The operands of attention: static settings, arrays, and masks."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from time_jax.core.arrays import Ids, same_document


class Mask(NamedTuple):
  """Which keys a query sees: real tokens of its own document.

  Attributes:
    segment_ids: 0 for padding, else the number of the document in its row.
    matrix: the same as `document_mask` makes it, for networks whose layers
      share one. Without it the mask is made where it is used, tile by tile.
    window: how many tokens on either side a query sees, with no matrix only;
      None, or as many as a row has, for the whole document.
  """

  segment_ids: Ids
  matrix: Bool[Array, "B 1 T T"] | None = None
  window: Int[Array, ""] | int | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is static in a call of attention.

  Attributes:
    num_heads: N, heads of the queries.
    num_key_heads: heads of keys and values, each shared by N / num_key_heads
      heads of the queries in a row.
    scale: factor of the dot products.
    dropout_rate: of the probabilities; 0 for none.
  """

  num_heads: int
  num_key_heads: int
  scale: float
  dropout_rate: float

  @property
  def sharing(self) -> int:
    """Returns how many heads of the queries share a head of the keys."""
    return self.num_heads // self.num_key_heads


class Operands(NamedTuple):
  """Arrays of a call, or one device's part of them, or their PartitionSpecs.

  Attributes:
    qkv: the `Qkv` before the split into heads, [B, T, N x H] for queries.
    rows: numbers of the rows in the batch of all devices, [B].
    heads: numbers of the heads, [N].
    matrix: the mask as a matrix; None where `segment_ids` and `window` say it.
    segment_ids: documents of the tokens, [B, T].
    window: see `Mask`, a scalar array.
    bias: added to the scaled scores, [B or 1, N, T, T].
    dropout_key: two words of a random key.
  """

  qkv: Any
  rows: Any
  heads: Any
  matrix: Any = None
  segment_ids: Any = None
  window: Any = None
  bias: Any = None
  dropout_key: Any = None

  def whole_matrix(self) -> Bool[Array, "B 1 T T"]:
    """Returns the mask as a matrix, which is made here unless it is given."""
    if self.segment_ids is None:
      return self.matrix
    return document_mask(self.segment_ids, self.window)


def document_mask(
  segment_ids: Ids, window: Int[Array, ""] | None = None
) -> Bool[Array, "B 1 T T"]:
  """Makes a matrix that is True where a query sees a key, see `Mask`."""
  ids = jnp.asarray(segment_ids)
  matrix = same_document(ids[:, None, :, None], ids[:, None, None, :])
  if window is None:
    return matrix
  place = jnp.arange(ids.shape[1])
  near = jnp.abs(place[:, None] - place[None, :]) <= window
  return matrix & near[None, None]


def matrix_mask(segment_ids: Ids) -> Mask:
  """Makes the mask that the blocks of a network share, matrix included."""
  return Mask(segment_ids, document_mask(segment_ids))


def row_of_document_mask(
  segment_ids: Int[Array, " T"],
  window: Int[Array, ""] | None,
  query: Int[Array, ""],
) -> Bool[Array, " T"]:
  """Makes the row of that matrix for the query at one place."""
  seen = same_document(segment_ids[query], segment_ids)
  if window is None:
    return seen
  return seen & (jnp.abs(jnp.arange(len(segment_ids)) - query) <= window)


def split_heads(
  x: Float[Array, "... D"], num_heads: int
) -> Float[Array, "... N H"]:
  """Cuts the last axis into heads that lie side by side."""
  return x.reshape(*x.shape[:-1], num_heads, -1)


def at_least_float32(x: Array) -> jax.typing.DTypeLike:
  """Returns the dtype for sums and softmax over products of x."""
  return jnp.promote_types(x.dtype, jnp.float32)
