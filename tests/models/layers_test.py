"""Pieces of encoders that have a promise of their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from time_jax.models import dropout, layers
from time_jax.parallel import sharding


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


def test_dropout_draws_for_a_row_wherever_it_is() -> None:
  drop = dropout.Dropout(0.25)
  x = jnp.ones((8, 6, 64))

  def dropped(x: jax.Array) -> jax.Array:
    rngs = {"dropout": jax.random.key(3)}
    return drop.apply({}, x, deterministic=False, rngs=rngs)

  whole = dropped(x)
  np.testing.assert_array_equal(jnp.unique(whole), [0, np.float32(1 / 0.75)])
  assert abs(float(whole.mean()) - 1) < 0.05
  same = (whole[:, None] == whole[None]).mean(axis=(2, 3))
  assert float((same - jnp.eye(8)).max()) < 0.75  # 0.625 expected
  rows = P(("data", "fsdp"))
  with sharding.use_mesh(make_mesh(2, 2, 1)):
    apart = jax.jit(jax.shard_map(dropped, in_specs=rows, out_specs=rows))(x)
  np.testing.assert_array_equal(apart, whole)
  np.testing.assert_array_equal(drop.apply({}, x, deterministic=True), x)


@pytest.mark.parametrize(
  ("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)]
)
def test_gelu_has_the_slope_of_its_definition(dtype, tolerance) -> None:
  x = jnp.linspace(-9, 9, 997)
  value, slope = jax.vmap(jax.value_and_grad(layers.gelu))(x.astype(dtype))
  assert value.dtype == slope.dtype == dtype
  rounded = x.astype(dtype).astype(jnp.float32)
  exact = jax.vmap(jax.value_and_grad(lambda x: nn.gelu(x, approximate=False)))(
    rounded
  )
  for found, expected in zip((value, slope), exact, strict=True):
    np.testing.assert_allclose(
      found.astype(jnp.float32), expected, atol=tolerance, rtol=tolerance
    )


def test_the_gradient_keeps_one_array_of_gelu() -> None:
  _, pullback = jax.vjp(layers.gelu, jnp.ones((3, 5)))
  assert [x.shape for x in jax.tree.leaves(pullback)] == [(3, 5)]
