"""Dropout that is the same on every mesh and backend, and in every tile.

What a row drops depends on its number in the batch of all devices.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import random as extended_random
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
    rng, kept = self.make_rng("dropout"), 1 - self.rate

    def keep(row: Int[Array, ""]) -> Bool[Array, "..."]:
      key = jax.random.fold_in(rng, row)
      return jax.random.bernoulli(key, kept, x.shape[1:])

    rows = sharding.row_numbers(x.shape[0])
    return jnp.where(jax.vmap(keep)(rows), x / kept, 0)


class AttentionDropout(NamedTuple):
  """Dropout on attention probabilities.

  Attributes:
    rate: the fraction that is dropped, to a multiple of 2^-16.
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

  Sixteen random bits decide each: Threefry makes them in half the time of
  `jax.random.bernoulli`, which takes sixty-four.

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
  numbers = jnp.arange(-(-length // 4), dtype=jnp.uint32)  # Four of each.
  counters = jnp.stack([jnp.full_like(numbers, query), numbers])
  bits = extended_random.threefry_2x32(jax.random.key_data(rng), counters)
  bits = jnp.concatenate([*(bits & 0xFFFF), *(bits >> 16)])[:length]
  return bits < round(kept_fraction(rate) * 2**16)


def kept_fraction(rate: float) -> float:
  """Returns the fraction of probabilities kept, a multiple of 2^-16."""
  return round((1 - rate) * 2**16) / 2**16
