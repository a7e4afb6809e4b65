"""Least squares: against NumPy's own, in pieces, and where rows say little."""

import numpy as np
import pytest
import scipy.sparse

from time_jax.starts.least_squares import (
  Moments,
  scale_and_shift,
  solve,
  solve_each,
  squared_error,
)

RANDOM = np.random.default_rng(0)
# Columns of very different size, and far from zero.
X = RANDOM.normal(size=(60, 5)) * [1, 10, 1e3, 1e-3, 1] + [0, 3, 1e4, 1, -2]
Y = X @ RANDOM.normal(size=(5, 3)) + RANDOM.normal(size=(60, 3)) + [7, 0, -1]


def moments(x, y):
  sums = Moments.empty(x.shape[1], y.shape[1])
  sums.add(x, y)
  return sums


def test_without_strength_it_is_least_squares():
  kernel, bias = solve(moments(X, Y), 0.0, strength=0.0)
  with_ones = np.column_stack([X, np.ones(len(X))])
  expected = np.linalg.lstsq(with_ones, Y)[0]
  np.testing.assert_allclose(kernel, expected[:-1], rtol=1e-5)
  np.testing.assert_allclose(bias, expected[-1], rtol=1e-5)


def test_it_minimises_what_it_says():
  prior = RANDOM.normal(size=(5, 3))
  x = X / X.std(0)
  kernel, _ = solve(moments(x, Y), prior, strength=0.3)
  x, y = x - x.mean(0), Y - Y.mean(0)
  penalty = 0.3 * np.trace(x.T @ x) / 5
  slope = x.T @ (x @ kernel - y) + penalty * (kernel - prior)
  np.testing.assert_allclose(slope / np.abs(x.T @ y).max(), 0, atol=1e-10)


def test_a_large_strength_gives_the_prior_with_a_fitted_bias():
  prior = RANDOM.normal(size=(5, 3))
  kernel, bias = solve(moments(X, Y), prior, strength=1e12)
  np.testing.assert_allclose(kernel, prior, rtol=1e-9)
  np.testing.assert_allclose(X.mean(0) @ prior + bias, Y.mean(0), rtol=1e-9)


def test_strength_means_the_same_for_more_rows_and_for_larger_inputs():
  kernel, bias = solve(moments(X, Y), 0.0, strength=0.1)
  often, same = solve(moments(np.tile(X, (7, 1)), np.tile(Y, (7, 1))), 0.0, 0.1)
  np.testing.assert_allclose(often, kernel, rtol=1e-8)
  np.testing.assert_allclose(same, bias, rtol=1e-8)
  larger, _ = solve(moments(100 * X, Y), 0.0, strength=0.1)
  np.testing.assert_allclose(100 * larger, kernel, rtol=1e-8)


def test_rows_may_come_in_pieces_and_in_float32():
  whole = moments(X, Y)
  parts = moments(X[:7], Y[:7]) + moments(X[7:9], Y[7:9])
  parts.add(X[9:], Y[9:])
  for name in ("xx", "xy", "x_sum", "y_sum", "yy"):
    np.testing.assert_allclose(getattr(parts, name), getattr(whole, name))
  assert parts.count == whole.count == 60
  single = X.astype(np.float32)
  np.testing.assert_allclose(
    moments(single, Y).xx, moments(single.astype(np.float64), Y).xx, rtol=1e-15
  )


def test_outputs_may_be_sparse():
  y = RANDOM.integers(0, 3, size=(60, 4)) * (RANDOM.random((60, 4)) < 0.3)
  found, dense = Moments.empty(5, 4), moments(X, y)
  found.add(X, scipy.sparse.csr_array(y.astype(np.float64)))
  for name in ("xy", "y_sum", "yy"):
    np.testing.assert_allclose(getattr(found, name), getattr(dense, name))


def test_several_strengths_are_what_each_is_alone():
  sums, prior = moments(X, Y), RANDOM.normal(size=(5, 3))
  strengths = [0.0, 1e-3, 10.0]
  for found, strength in zip(
    solve_each(sums, prior, strengths), strengths, strict=True
  ):
    alone = solve(sums, prior, strength)
    for a, b in zip(found, alone, strict=True):
      np.testing.assert_array_equal(a, b)


def test_the_squared_error_is_that_of_other_rows():
  kernel, bias = solve(moments(X[:40], Y[:40]), 0.0, strength=0.01)
  left = Y[40:] - X[40:] @ kernel - bias
  found = squared_error(moments(X[40:], Y[40:]), kernel, bias)
  np.testing.assert_allclose(found, np.square(left).sum(0), rtol=1e-6)
  exact = np.eye(3)
  none = squared_error(moments(Y, Y), exact, np.zeros(3))
  np.testing.assert_allclose(none, 0, atol=1e-9)
  assert (none >= 0).all()


def test_scatters_are_taken_about_the_means():
  sums, x, y = moments(X, Y), X - X.mean(0), Y - Y.mean(0)
  scale = np.outer(X.std(0), X.std(0))
  np.testing.assert_allclose(sums.scatter / scale, x.T @ x / scale, atol=1e-6)
  np.testing.assert_allclose(sums.cross_scatter, x.T @ y, rtol=1e-6)
  np.testing.assert_allclose(sums.y_scatter, np.square(y).sum(0), rtol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 1e-6, 1e-2])
def test_directions_that_rows_do_not_show_keep_the_prior(strength):
  # The second column says what the first does, the third always the same.
  x = np.column_stack([X[:, 0], 2 * X[:, 0], np.full(60, 1e3)])
  prior = np.array([[1.0], [1.0], [5.0]])
  kernel, bias = solve(moments(x, x[:, :1]), prior, strength)
  assert kernel[2] == pytest.approx(5)
  across = np.array([2, -1, 0]) / np.sqrt(5)
  assert across @ kernel == pytest.approx(across @ prior)
  fitted = x @ kernel + bias
  np.testing.assert_allclose(fitted, x[:, :1], atol=3 * strength + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_no_direction(seed):
  """Of rows in two directions, without a penalty that would hide it."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 7)) + 100
  prior = rng.normal(size=(7, 3))
  kernel, _ = solve(moments(x, Y), prior, strength=0.0)
  _, _, directions = np.linalg.svd(x - x.mean(0))
  unseen = directions[2:]
  np.testing.assert_allclose(unseen @ kernel, unseen @ prior, atol=1e-6)


def test_few_rows_and_none_give_finite_numbers():
  for count in (0, 1, 2):
    kernel, bias = solve(moments(X[:count], Y[:count]), 0.0, strength=0.01)
    assert np.isfinite(kernel).all() and np.isfinite(bias).all()


def test_scale_and_shift_are_a_line_through_every_column():
  n = RANDOM.normal([0, 1, 50, 0], size=(50, 4))
  t = n * [2, -1, 0.5, 0] + [1, 0, 3, 8] + 0.1 * RANDOM.normal(size=(50, 4))
  scale, shift = scale_and_shift(n, t)
  lines = np.array([np.polyfit(n[:, j], t[:, j], 1) for j in range(4)])
  np.testing.assert_allclose(scale, lines[:, 0], rtol=1e-9)
  np.testing.assert_allclose(shift, lines[:, 1], rtol=1e-9)


def test_a_column_that_does_not_differ_gets_no_scale():
  scale, shift = scale_and_shift(np.full((5, 1), 0.1), np.arange(5.0)[:, None])
  assert scale == 0 and shift == 2
