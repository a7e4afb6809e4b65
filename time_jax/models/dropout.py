"""Dropout on attention, whose bits no tile, mesh or backend changes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import random as extended_random
from jaxtyping import Array, Bool, Int, UInt


class Dropout(NamedTuple):
  """Dropout on attention probabilities.

  Attributes:
    rate: the part that is dropped, to a multiple of 2^-16.
    rng: key; with the row of the batch, the head and the place it decides what
      falls, so that tiles, meshes and backends agree.
  """

  rate: float
  rng: Array


def kept(
  words: UInt[Array, " 2"],
  rate: float,
  length: int,
  row: Int[Array, ""] | int,
  head: Int[Array, ""] | int,
  query: Int[Array, ""] | int,
) -> Bool[Array, " S"]:
  """What dropout leaves of what a query sees, in one head of one example.

  Sixteen random bits decide a number: Threefry makes them in half the time
  of jax.random.bernoulli, which takes sixty-four.
  """
  rng = jax.random.wrap_key_data(words, impl="threefry2x32")
  rng = jax.random.fold_in(jax.random.fold_in(rng, row), head)
  numbers = jnp.arange(-(-length // 4), dtype=jnp.uint32)  # Four of each.
  counters = jnp.stack([jnp.full_like(numbers, query), numbers])
  bits = extended_random.threefry_2x32(jax.random.key_data(rng), counters)
  bits = jnp.concatenate([*(bits & 0xFFFF), *(bits >> 16)])[:length]
  return bits < round(kept_part(rate) * 2**16)


def kept_part(rate: float) -> float:
  """The share of probabilities that is left, to a multiple of 2^-16."""
  return round((1 - rate) * 2**16) / 2**16
