"""What is not finite: which steps are skipped, and when a run must end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from time_jax import guard, optimizer, train_step

ADAMW = dict(b1=0.9, b2=0.999, weight_decay=0.01, clip_norm=1.0)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_one_odd_number_anywhere_is_found(odd):
  sound = {"a": np.ones((2, 3), np.float32), "b": np.arange(3)}
  assert guard.all_finite(sound) and guard.all_finite({})
  spoiled = sound | {"c": np.asarray([0, odd], np.float32)}
  assert not guard.all_finite(spoiled)


@pytest.mark.parametrize("odd", ["rate", "update", "nothing"])
def test_the_rate_and_the_update_must_be_finite(odd):
  """With eps=0 a word that no text had gives 0 / 0; its gradient is finite."""
  eps = 0.0 if odd == "update" else 1e-6
  tx = optimizer.make_optimizer(lambda path: True, eps=eps, **ADAMW)
  params = {"embedding": jnp.ones((2, 3))}
  grads = {"embedding": jnp.asarray([[0.0] * 3, [0.1] * 3])}
  zero = jnp.zeros((), jnp.int32)
  state = train_step.TrainState(
    zero, params, tx.init(params), zero, zero, ema=params
  )
  rate = jnp.asarray(np.inf if odd == "rate" else 0.1)
  sound = jnp.asarray(True)
  after = train_step._update(state, grads, tx, rate, sound, 0.5)
  bad = int(odd != "nothing")
  counters = after.step, after.skipped, after.skipped_in_a_row
  assert [*map(int, counters)] == [1, bad, bad]
  for name in ("params", "opt_state", "ema"):
    found = jax.tree.leaves(getattr(after, name))
    before = jax.tree.leaves(getattr(state, name))
    same = all(map(np.array_equal, found, before))
    assert same == bool(bad), name
    assert all(np.isfinite(leaf).all() for leaf in found)


@pytest.mark.parametrize(
  ("in_a_row", "num_steps", "ends"),
  [(3, 100, False), (4, 100, True), (2, 3, False), (3, 3, True)],
)
def test_when_a_run_ends_for_the_steps_that_it_skipped(
  in_a_row, num_steps, ends
):
  reason = guard.reason_to_end(
    in_a_row, 9, max_skipped=4, num_steps=num_steps, spikes=True
  )
  assert reason == ends * (
    "loss, gradient or update was not finite or a spike in "
    f"{in_a_row} steps in a row, up to step 9."
  )
