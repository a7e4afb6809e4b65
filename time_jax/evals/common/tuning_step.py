"""One step of fine-tuning, for any task: pure maths, in two parts.

The gradients are compiled for every shape of a batch. The update is compiled
once: it takes XLA as long as the gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from time_jax.evals.common.task import Task
from time_jax.models.family import Params
from time_jax.step.state import StepSettings, TrainState, purpose_key, update

Parts = dict[str, Array]


def gradients(
  params: Params, step: Int[Array, ""], batch: Any, *, task: Task, seed: int
) -> tuple[Params, Parts]:
  """Returns the gradients of a batch, and the loss with its parts.

  Args:
    params: "encoder" and "heads".
    step: number of updates so far.
    batch: the global batch, as the task's loss takes it.
    task: gives the loss.
    seed: seed of dropout.
  """
  rng = purpose_key(seed, step, "dropout")
  return jax.grad(task.loss, has_aux=True)(params, batch, rng)


def apply_gradients(
  state: TrainState,
  grads: Params,
  parts: Parts,
  *,
  settings: StepSettings,
  encoder_factor: float,
) -> tuple[TrainState, dict[str, Array]]:
  """Updates a model once.

  Args:
    state: state before the update.
    grads: gradients of its parameters.
    parts: "loss" and its parts.
    settings: optimizer and schedule.
    encoder_factor: learning rate of the encoder, relative to that of the heads.

  Returns:
    The next state and scalars. Where loss, gradient, learning rate or updated
    parameters are not finite, only the counters of the state change.
  """
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
