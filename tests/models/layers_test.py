"""Pieces of encoders that have a promise of their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from time_jax.models import layers


def test_a_frequent_token_gets_all_of_its_gradient_in_bfloat16() -> None:
  table = layers.Embed(3, 2, "vocab", stddev=1.0, dtype=jnp.bfloat16)
  ids = jnp.array([0] + [1] * 5000)
  params = nn.unbox(table.init(jax.random.key(0), ids))

  def total(params: dict) -> jax.Array:
    rows = table.apply(params, ids)
    assert rows.dtype == jnp.bfloat16
    return jnp.sum(rows.astype(jnp.float32))

  grads = jax.grad(total)(params)["params"]["embedding"]
  assert grads.dtype == jnp.float32
  # bfloat16 has no number between 256 and 258: 256 + 1 stays 256.
  np.testing.assert_array_equal(grads, [[1, 1], [5000, 5000], [0, 0]])
