"""The loop of fine-tuning, with a task that is one product: what it skips."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from time_jax.core.errors import RunError, UserError
from time_jax.evals.common import optimization, task, tuning
from time_jax.hf import model_identity
from time_jax.telemetry import history

RECIPE = optimization.Recipe(
  epochs=2,
  patience=2,
  peak_lr=0.1,
  encoder_factor=0.5,
  warmup_steps=1,
  adamw={
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
  },
  max_skipped=3,
  ema=0.5,
  checkpoint_every=2,
  log_every=1,
  seed=0,
)


def beat():
  """Tells no watchdog."""


class Product:
  """A task: an encoder times a head is to be 1 for every number of a batch."""

  def fresh(self, rng):
    del rng
    parts = "encoder", "heads"
    return {name: {"kernel": jnp.full((1,), 0.5)} for name in parts}

  def loss(self, params, batch, rng):
    del rng
    product = params["encoder"]["kernel"] * params["heads"]["kernel"]
    loss = jnp.mean((batch * product[0] - 1) ** 2)
    return loss, {"loss": loss}

  def evaluate(self, params, beat):
    beat()
    return {task.SCORE: float(params["heads"]["kernel"][0])}


class Numbers:
  """Batches, three an epoch; some of their steps have no number."""

  steps = 3

  def __init__(self, odd=()):
    self._odd = odd

  def batch_at(self, step):
    return np.full((1, 1), np.nan if step + 1 in self._odd else 1.0, np.float32)


@pytest.fixture
def run(mesh, one_process, tmp_path):
  def make(name, odd=(), **changes):
    return tuning.Tuning(
      task=Product(),
      recipe=RECIPE,
      batches=Numbers(odd),
      mesh=mesh,
      workdir=tmp_path / name,
      record={"train": {"peak_lr": 0.1}},
      **{"encoder": None, "model": model_identity.Identity("a")} | changes,
    )

  return make


def skipped(workdir):
  rows = history.read_metrics(workdir)
  return [r["train/skipped"] for r in rows if "train/skipped" in r]


def test_a_step_that_is_not_finite_changes_nothing(run):
  """Two of six steps: the others learn what four steps learn."""
  spoiled = run("spoiled", odd=(2, 4))
  tuned = spoiled.tune(beat)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tuned))
  assert skipped(spoiled.workdir) == [0, 1, 1, 2, 2, 2]
  state, batch = spoiled.first_state(), jnp.full((1, 1), jnp.nan)

  def step(state, batch):
    states, scalars = spoiled.step(0, {"student": state}, batch)
    return states["student"], scalars["student"]

  state, _ = step(state, jnp.ones((1, 1)))
  kept = jax.tree.map(jnp.copy, state)  # The step donates its own.
  after, scalars = step(state, batch)
  for name in ("params", "ema", "opt_state"):
    found, before = getattr(after, name), getattr(kept, name)
    jax.tree.map(np.testing.assert_array_equal, found, before)
  assert int(scalars["train/skipped_in_a_row"]) == 1 and int(after.step) == 2


def test_too_many_in_a_row_end_the_run(run):
  for odd, words in (
    ((1, 2, 3), "up to step 3. The checkpoint of step 2 is sound."),
    ((4, 5, 6), "up to step 6. The checkpoint of step 4 is sound."),
  ):
    spoiled = run(f"from-{odd[0]}", odd=odd)
    for _ in range(2):  # What was counted before the checkpoint counts.
      with pytest.raises(RunError) as caught:
        spoiled.tune(beat)
      assert str(caught.value).startswith(
        f"loss, gradient or update was not finite in 3 steps in a row, {words} "
        "Start again with a lower train.peak_lr in another --workdir"
      )


def test_a_checkpoint_without_counters_goes_on(run):
  whole, begun = run("whole", odd=(2,)), run("begun", odd=(2,))
  expected = whole.tune(beat)
  begun.tune(beat)
  folder = begun.workdir / "checkpoints"
  shutil.rmtree(folder / "6")
  (folder / "4" / "sha256.json").unlink()
  path = folder / "4" / "metadata" / "metadata"
  content = json.loads(path.read_text())
  assert content.pop("skipped") == 1 and content.pop("skipped_in_a_row") == 0
  path.write_text(json.dumps(content))
  found = begun.tune(beat)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_encoder_that_is_not_finite_is_refused(run):
  spoiled = run("spoiled", encoder={"kernel": jnp.full((1,), jnp.inf)})
  with pytest.raises(UserError, match="weights of the encoder hold NaN or inf"):
    spoiled.tune(beat)
