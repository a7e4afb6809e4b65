"""Which directions, heads and units of a wide network are kept."""

import numpy as np
import pytest

from time_jax.starts import basis, heads


def moment_of(states):
  return states.T @ states


def normalized(x):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True))


@pytest.mark.parametrize("width", [1, 5, 11])
def test_components_leave_the_mean_of_a_layer_norm_where_it_is(width):
  states = np.random.default_rng(0).normal(1, 2, (100, 12))
  e = basis.components(moment_of(states), width)
  np.testing.assert_allclose(e.T @ e, np.eye(width), atol=1e-12)
  np.testing.assert_allclose(
    e @ np.ones(width), np.full(12, np.sqrt(width / 12)), atol=1e-12
  )


def test_components_hold_all_that_there_is_and_the_layer_norm_is_parallel():
  rng = np.random.default_rng(1)
  states = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 12)) + 4
  e = basis.components(moment_of(states), 6)
  assert basis.share(moment_of(states), e) == pytest.approx(1)
  np.testing.assert_allclose(
    normalized(states @ e), normalized(states) @ e * np.sqrt(6 / 12), atol=1e-9
  )


def test_a_share_falls_with_the_width():
  states = np.random.default_rng(2).normal(size=(100, 12))
  for find in basis.BASES.values():
    shares = [
      basis.share(moment_of(states), find(moment_of(states), width))
      for width in (12, 9, 6, 3)
    ]
    assert shares[0] == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    np.testing.assert_array_equal(find(moment_of(states), 12), np.eye(12))


def test_selection_takes_the_units_with_most_energy_in_their_order():
  e = basis.selection(np.diag([1.0, 9, 3, 7]), 2)
  np.testing.assert_array_equal(e, np.eye(4)[:, [1, 3]])


def cut(seed, scale=1.0):
  return np.random.default_rng(seed).normal(size=(50, 3, 4)) * scale


def logits(query, key, width):
  query = query.reshape(len(query), -1, width)
  key = key.reshape(len(key), -1, width)
  return np.einsum("tnh,snh->nts", query, key) / np.sqrt(width)


@pytest.mark.parametrize("width", [2, 4, 6])
def test_heads_see_the_same_where_they_hold_all(width):
  query, key, value = (cut(seed) for seed in range(3))
  for x in (query, key, value):
    x[..., 2:] = 0  # Two directions are enough.
  turn = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
  query, key = query @ turn, key @ turn
  maps = heads.narrow(query, key, value, [0, 2], width)
  q, k, v = (x.reshape(50, -1) for x in (query, key, value))
  for a, b in ((q, k), (q, q), (k, k)):
    np.testing.assert_allclose(
      logits(a @ maps.query, b @ maps.query, width),
      logits(a, b, 4)[[0, 2]],
      atol=1e-9,
    )
  np.testing.assert_allclose(
    logits(v @ maps.value, v @ maps.value, width),
    logits(v, v, 4)[[0, 2]],
    atol=1e-9,
  )
  back = v @ maps.value @ maps.out
  np.testing.assert_allclose(back[:, :4], v[:, :4], atol=1e-9)
  assert not back[:, 4:8].any()  # The head that is dropped.


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_queries_and_keys_count_alike_in_what_a_head_keeps(size):
  """However large they are; values have directions of their own."""
  rng = np.random.default_rng(3)
  query, key, value = (rng.normal(size=(50, 1, 4)) for _ in range(3))
  query *= np.array([5, 1e-2, 1, 0])
  key *= size * np.array([1e-2, 5, 1e-2, 1])
  value *= np.array([0, 1, 5, 3])
  maps = heads.narrow(query, key, value, [0], 2)
  for kept, own in ((maps.query, [0, 1]), (maps.value, [2, 3])):
    turned = kept @ kept.T / np.sqrt(2 / 4)
    chosen = np.zeros(4)
    chosen[own] = 1
    np.testing.assert_allclose(turned, np.diag(chosen), atol=0.3)


def test_a_head_of_the_same_width_stays_as_it_is():
  maps = heads.narrow(cut(0), cut(1), cut(2), [1], 4)
  chosen = np.eye(12)[:, 4:8]
  np.testing.assert_array_equal(maps.query, chosen)
  np.testing.assert_array_equal(maps.value, chosen)
  np.testing.assert_array_equal(maps.out, chosen.T)


def test_the_energy_of_a_head_is_the_variance_of_what_it_adds():
  mixed, kernel = cut(0) + 3, np.random.default_rng(1).normal(size=(12, 7))
  added = np.einsum("tnh,nhd->ntd", mixed, kernel.reshape(3, 4, 7))
  wanted = 50 * added.var(1).sum(-1)
  np.testing.assert_allclose(heads.energies(mixed, kernel), wanted)
  assert basis.largest(np.array([2.0, 5, 5, 1]), 2) == [1, 2]
  assert basis.largest(np.array([2.0, 2, 9]), 2) == [0, 2]
