"""What is not finite: which steps are skipped, and when a run must end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saving import open_in, save_all, steps_in, trees

from time_jax.core import nonfinite
from time_jax.core.errors import RunError, UserError
from time_jax.step import optimizer
from time_jax.step.state import StepSettings, TrainState, update

ADAMW = dict(b1=0.9, b2=0.999, weight_decay=0.01, clip_norm=1.0)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_one_odd_number_anywhere_is_found(odd):
  sound = {"a": np.ones((2, 3), np.float32), "b": np.arange(3)}
  assert nonfinite.all_finite(sound) and nonfinite.all_finite({})
  spoiled = sound | {"c": np.asarray([0, odd], np.float32)}
  assert not nonfinite.all_finite(spoiled)


@pytest.mark.parametrize("odd", ["rate", "update", "nothing"])
def test_the_rate_and_the_update_must_be_finite(odd):
  """With eps=0 a word that no text had gives 0 / 0; its gradient is finite."""
  eps = 0.0 if odd == "update" else 1e-6
  tx = optimizer.make_optimizer(lambda path: True, eps=eps, **ADAMW)
  params = {"embedding": jnp.ones((2, 3))}
  grads = {"embedding": jnp.asarray([[0.0] * 3, [0.1] * 3])}
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(zero, params, tx.init(params), zero, zero, ema=params)
  rate = jnp.asarray(np.inf if odd == "rate" else 0.1)
  sound = jnp.asarray(True)
  settings = StepSettings(tx, lambda step: rate, ema=0.5)
  after = update(state, grads, rate, sound, settings)
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
  reason = nonfinite.reason_to_end(
    in_a_row, 9, max_skipped=4, num_steps=num_steps, spikes=True
  )
  assert reason == ends * (
    "loss, gradient or update was not finite or a spike in "
    f"{in_a_row} steps in a row, up to step 9."
  )


def with_odd_number(seed, part, odd):
  found = trees(seed)
  name = {"params": "bias", "rest": "moment"}[part]
  place = found["rest"]["step"].sharding
  found[part][name] = jax.device_put(np.asarray([1.0, odd], np.float32), place)
  return found


@pytest.mark.parametrize("odd", [float("nan"), float("-inf")])
@pytest.mark.parametrize("part", ["params", "rest"])
def test_what_is_not_finite_is_not_saved(tmp_path, part, odd):
  with open_in(tmp_path) as checkpoints:
    for step, words in (
      (1, "No checkpoint has been saved yet."),
      (3, "The checkpoint of step 2 is sound."),
    ):
      with pytest.raises(RunError) as caught:
        checkpoints.save(step, with_odd_number(step, part, odd), {})
      assert str(caught.value).startswith(
        f"the state after step {step} holds NaN or infinity and is not saved. "
        f"{words}"
      )
      save_all(checkpoints, [2])
  assert steps_in(tmp_path) == [2]


def test_a_saved_state_that_is_not_finite_is_told(tmp_path, monkeypatch):
  """Earlier versions saved such."""
  spoiled = with_odd_number(3, "rest", float("nan"))
  with monkeypatch.context() as patch, open_in(tmp_path) as checkpoints:
    patch.setattr(nonfinite, "all_finite", lambda tree: True)
    checkpoints.save(3, spoiled, {}, wait=True)
  wanted = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    spoiled,
  )
  with (
    open_in(tmp_path) as checkpoints,
    pytest.raises(UserError, match="cannot be read: it holds NaN or infinity"),
  ):
    checkpoints.restore(3, wanted)
