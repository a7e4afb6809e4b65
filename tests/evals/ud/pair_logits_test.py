"""Relations in groups equal the definition, and so do their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from time_jax.evals.ud.pair_logits import pair_logits


def definition(x, y, pairs):
  return jnp.einsum("nj,cjk,nk->nc", x, pairs, y)


@pytest.mark.parametrize("count", [1, 8, 11, 16])
def test_logits_and_gradients_are_those_of_the_definition(count):
  random = np.random.default_rng(count)
  operands = [
    jnp.asarray(random.normal(size=shape), jnp.float32)
    for shape in ((7, 4), (7, 4), (count, 4, 4))
  ]
  slopes = jnp.asarray(random.normal(size=(7, count)), jnp.float32)
  found, pullback = jax.vjp(pair_logits, *operands)
  expected, expected_pullback = jax.vjp(definition, *operands)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  for one, other in zip(
    pullback(slopes), expected_pullback(slopes), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_16_bits_stay_16_bits():
  operands = [
    jnp.ones(shape, jnp.bfloat16) for shape in ((3, 4), (3, 4), (9, 4, 4))
  ]
  logits, pullback = jax.vjp(pair_logits, *operands)
  for x in (logits, *pullback(logits)):
    assert x.dtype == jnp.bfloat16
