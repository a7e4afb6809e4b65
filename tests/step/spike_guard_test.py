"""What counts as a spike, and what the statistics learn of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from time_jax.step import spike_guard


@jax.jit
def judge(usual, loss, norm, skipped_in_a_row=0):
  return spike_guard.detect(
    usual, loss, norm, 5.0, jnp.asarray(skipped_in_a_row)
  )


def after(values):
  """Statistics after steps of such (loss, gradient norm), none a spike."""
  usual = spike_guard.init()
  for loss, norm in values:
    spike, usual = judge(usual, loss, norm)
    assert not spike
  return usual


def ordinary(count):
  random = np.random.default_rng(0)
  noise = random.normal(size=(count, 2)).clip(-2, 2)
  return np.stack([3 + 0.1 * noise[:, 0], np.exp(0.2 * noise[:, 1])], axis=1)


def test_the_first_steps_are_a_plain_mean():
  values = ordinary(100)
  usual = after(values)
  known = np.stack([values[:, 0], np.log(values[:, 1])], axis=1)
  np.testing.assert_allclose(usual["mean"], known.mean(0), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(usual["variance"], known.var(0), rtol=1e-3)
  assert int(usual["count"]) == 100


def test_what_is_long_ago_is_forgotten():
  usual = after([(5 - i / 1000, 1.0) for i in range(2000)])
  np.testing.assert_allclose(usual["mean"][0], 3 + 128 / 1000, atol=0.01)


@pytest.mark.parametrize(
  ("loss", "norm", "expected"),
  [(3.2, 1.2, False), (9.0, 1.0, True), (3.0, 50.0, True), (0.1, 0.01, False)],
)
def test_only_upwards_is_a_spike(loss, norm, expected):
  usual = after(ordinary(60))
  spike, later = judge(usual, loss, norm)
  assert bool(spike) == expected == bool(later["spikes"])
  for name in ("count", "mean", "variance"):  # A spike teaches nothing.
    same = np.array_equal(usual[name], later[name])
    assert same == expected, name


@pytest.mark.parametrize(
  ("loss", "norm"),
  [(np.nan, np.nan), (np.inf, 1.0), (3.0, np.inf), (0.0, 0.0)],
)
@pytest.mark.parametrize("count", [0, 60])
def test_what_is_not_finite_poisons_nothing(count, loss, norm):
  """Nor does a batch without documents, whose gradient has no logarithm."""
  usual = after(ordinary(count))
  spike, later = judge(usual, jnp.float32(loss), jnp.float32(norm))
  assert not spike
  jax.tree.map(np.testing.assert_array_equal, later, usual)


def test_at_first_nothing_is_unusual():
  spike, _ = judge(after(ordinary(19)), 100.0, 100.0)
  assert not spike
  spike, _ = judge(after(ordinary(20)), 100.0, 100.0)
  assert spike


def judged(usual, losses):
  """Whether each of these losses is a spike, as a run would judge them."""
  found, in_a_row = [], 0
  for loss in losses:
    spike, usual = judge(usual, loss, 1.0, in_a_row)
    in_a_row = in_a_row + 1 if spike else 0
    found.append(bool(spike))
  return found, usual


def test_a_burst_teaches_nothing():
  usual = after(ordinary(60))
  found, later = judged(usual, [9.0] * 8)
  assert found == [True] * 8
  np.testing.assert_array_equal(later["mean"], usual["mean"])
  assert judged(later, [3.0, 9.0])[0] == [False, True]


def test_a_level_that_lasts_becomes_the_usual_one():
  found, later = judged(after(ordinary(60)), [9.0] * 8 + [9.1, 8.9] * 20)
  assert found == [True] * 8 + [False] * 40
  np.testing.assert_allclose(later["mean"][0], 9.0, atol=0.01)
  assert int(later["count"]) == 40 and int(later["spikes"]) == 8
  assert judged(later, [12.0])[0] == [True]


def test_what_is_not_finite_is_no_new_level():
  usual = after(ordinary(60))
  spike, later = judge(usual, jnp.float32(jnp.inf), 1.0, 20)
  assert not spike
  jax.tree.map(np.testing.assert_array_equal, later, usual)
