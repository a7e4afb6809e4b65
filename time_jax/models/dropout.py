"""Dropout that is the same on every mesh and backend, and in every tile.

What a row drops depends on its number in the batch of all devices.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from time_jax.parallel import sharding


class Dropout(nn.Module):
  """Dropout on a batch of rows.

  Attributes:
    rate: the fraction that is dropped.
  """

  rate: float

  @nn.compact
  def __call__(
    self, x: Float[Array, "B ..."], *, deterministic: bool
  ) -> Float[Array, "B ..."]:
    """Drops elements and scales the others up."""
    if deterministic or not self.rate:
      return x
    rng, rate = self.make_rng("dropout"), self.rate

    def keep(row: Int[Array, ""]) -> Bool[Array, "..."]:
      words = jax.random.key_data(jax.random.fold_in(rng, row))
      places = jnp.arange(math.prod(x.shape[1:]), dtype=jnp.uint32)
      return _is_kept(words, places, rate).reshape(x.shape[1:])

    rows = sharding.row_numbers(x.shape[0])
    return jnp.where(jax.vmap(keep)(rows), x / (1 - rate), 0)


class AttentionDropout(NamedTuple):
  """Dropout on attention probabilities.

  Attributes:
    rate: the fraction that is dropped.
    rng: random key; with the row of the batch, the head and the place of the
      query it decides what is dropped.
  """

  rate: float
  rng: Array


def is_kept(
  words: UInt[Array, " 2"],
  rate: float,
  length: int,
  row: Int[Array, ""] | int,
  head: Int[Array, ""] | int,
  query: Int[Array, ""] | int,
) -> Bool[Array, " S"]:
  """Draws which probabilities of a query dropout keeps, in one head of a row.

  Args:
    words: two words of a random key.
    rate: the fraction that is dropped.
    length: S, number of keys.
    row: number of the row in the batch.
    head: number of the head.
    query: place of the query in its row.
  """
  rng = jax.random.wrap_key_data(words, impl="threefry2x32")
  rng = jax.random.fold_in(jax.random.fold_in(rng, row), head)
  first = jnp.asarray(query, jnp.uint32) * length
  places = first + jnp.arange(length, dtype=jnp.uint32)
  return _is_kept(jax.random.key_data(rng), places, rate)


def _is_kept(
  words: UInt[Array, " 2"], places: UInt[Array, " n"], rate: float
) -> Bool[Array, " n"]:
  """Draws which of these places are kept.

  A place is hashed twice, each time with a word of the key, by the 32-bit hash
  of least bias that "Prospecting for Hash Functions" (C. Wellons, 2018) names
  lowbias32. Threefry, which made the key, would take most of the time of a
  student's step here; a mask needs less than that.
  """
  bits = places
  for word in words:
    bits = bits ^ word
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    bits = bits ^ (bits >> 16)
  return bits < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
