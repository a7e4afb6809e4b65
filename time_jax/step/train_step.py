"""One step of distillation: pure maths, the same under jit and under pmap."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from time_jax.core.arrays import Batch, checksum
from time_jax.models.family import Params
from time_jax.relations.loss import count_documents
from time_jax.step import spike_guard
from time_jax.step.gradient_accumulation import gradients
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, TrainState, purpose_key, update

Metrics = dict[str, Array]
Step = Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]


def train_step(
  state: TrainState,
  teacher_params: Params,
  batch: Batch,
  *,
  objective: Objective,
  settings: StepSettings,
  axis: str | None = None,
) -> tuple[TrainState, Metrics]:
  """Updates a student once.

  Args:
    state: state before the update.
    teacher_params: the teacher's parameters, an argument so that they keep
      their own sharding and are no constants of the compiled step.
    batch: the global batch; with `axis`, this device's rows of it.
    objective: the relation loss.
    settings: optimizer, schedule and guards.
    axis: name of the mapped axis under pmap; None under jit.

  Returns:
    The next state, and scalars. Where the loss or the gradient is a spike, or
    where loss, gradient, learning rate or updated parameters are not finite,
    only the counters of the state change.
  """

  def add_up(tree: Any) -> Any:
    return jax.lax.psum(tree, axis) if axis else tree

  documents = add_up(count_documents(batch.segment_ids))
  rng = purpose_key(settings.seed, state.step, "dropout")
  if axis:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
  grads, loss, parts = add_up(
    gradients(
      state.params,
      teacher_params,
      batch,
      objective,
      jnp.maximum(documents, 1).astype(jnp.float32),
      rng,
      settings.accumulation,
    )
  )
  grad_norm = optax.global_norm(grads)
  sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  if settings.spike:
    is_spike, usual = spike_guard.detect(
      state.usual, loss, grad_norm, settings.spike, state.skipped_in_a_row
    )
    sound &= ~is_spike
    state = dataclasses.replace(state, usual=usual)
  learning_rate = settings.learning_rate(state.step)
  with jax.named_scope("optimizer"):
    state = update(state, grads, learning_rate, sound, settings)
  metrics = {f"train/kl_{name}": value for name, value in parts.items()} | {
    "train/loss": loss,
    "train/learning_rate": learning_rate,
    "train/grad_norm": grad_norm,
    "train/skipped": state.skipped,
    "train/skipped_in_a_row": state.skipped_in_a_row,
    "data/documents": documents,
    "data/tokens": add_up(jnp.sum(batch.segment_ids > 0)),
    "data/checksum": add_up(checksum(batch)),
  }
  if settings.spike:
    metrics["train/spikes"] = state.usual["spikes"]
  return state, metrics
