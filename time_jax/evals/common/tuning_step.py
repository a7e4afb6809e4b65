"""One step of fine-tuning: pure maths, for any task."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from time_jax.evals.common.task import Task
from time_jax.step.state import StepSettings, TrainState, purpose_key, update


def tuning_step(
  state: TrainState,
  batch: Any,
  *,
  task: Task,
  settings: StepSettings,
  encoder_factor: float,
) -> tuple[TrainState, dict[str, Array]]:
  """Updates a model once: pure maths.

  Args:
    state: state before the update.
    batch: the global batch, as the task's loss takes it.
    task: gives the loss.
    settings: optimizer and schedule.
    encoder_factor: learning rate of the encoder, relative to that of the heads.

  Returns:
    The next state and scalars. Where loss, gradient, learning rate or updated
    parameters are not finite, only the counters of the state change.
  """
  rng = purpose_key(settings.seed, state.step, "dropout")
  grads, parts = jax.grad(task.loss, has_aux=True)(state.params, batch, rng)
  grad_norm = optax.global_norm(grads)
  sound = jnp.isfinite(parts["loss"]) & jnp.isfinite(grad_norm)
  rate = settings.learning_rate(state.step)
  rates = {"encoder": rate * encoder_factor, "heads": rate}
  state = update(state, grads, rates, sound, settings)
  return state, {f"train/{name}": value for name, value in parts.items()} | {
    "train/learning_rate": rate,
    "train/grad_norm": grad_norm,
    "train/skipped": state.skipped,
    "train/skipped_in_a_row": state.skipped_in_a_row,
  }
