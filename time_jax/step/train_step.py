"""One step of distillation: pure maths, the same under jit and under pmap.

A step trains one student or several of one teacher. They share the rows and
what the teacher makes of them, and nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from time_jax.core import nonfinite
from time_jax.core.arrays import Batch, Targets, checksum
from time_jax.models.family import Params
from time_jax.relations.loss import count_documents
from time_jax.step import spike_guard
from time_jax.step.gradient_accumulation import Result, gradients
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, TrainState, purpose_key, update

Metrics = dict[str, Array]
States = Mapping[str, TrainState]
Step = Callable[..., tuple[dict[str, TrainState], dict[str, Metrics]]]
"""Takes states, the teacher's parameters, a batch and perhaps its targets."""


@dataclasses.dataclass(frozen=True)
class Student:
  """What is constant of a student while it trains.

  Attributes:
    objective: its loss; all students of a step have one teacher.
    settings: optimizer, schedule and guards; all have one accumulation.
  """

  objective: Objective
  settings: StepSettings


def train_step(
  states: States,
  teacher_params: Params,
  batch: Batch,
  targets: Targets | None = None,
  *,
  students: Mapping[str, Student],
  axis: str | None = None,
) -> tuple[dict[str, TrainState], dict[str, Metrics]]:
  """Updates each student once.

  Args:
    states: state of each student before the update, by name.
    teacher_params: the teacher's parameters, an argument so that they keep
      their own sharding and are no constants of the compiled step.
    batch: the global batch; with `axis`, this device's rows of it.
    targets: what is learnt of the teacher for the batch, where that is known,
      see `cached_targets`; None: it is asked.
    students: the students, by the names of `states`.
    axis: name of the mapped axis under pmap; None under jit.

  Returns:
    The next states, and scalars, by student. Where the loss or the gradient of
    a student is a spike, or where its loss, gradient, learning rate or updated
    parameters are not finite, only the counters of its state change; the others
    do not notice.
  """

  def add_up(tree: Any) -> Any:
    return jax.lax.psum(tree, axis) if axis else tree

  documents = add_up(count_documents(batch.segment_ids))
  rngs = {}
  for name, student in students.items():
    rng = purpose_key(student.settings.seed, states[name].step, "dropout")
    if axis:
      rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
    rngs[name] = rng
  (accumulation,) = {own.settings.accumulation for own in students.values()}
  found = add_up(
    gradients(
      {name: states[name].params for name in students},
      teacher_params,
      batch,
      {name: student.objective for name, student in students.items()},
      jnp.maximum(documents, 1).astype(jnp.float32),
      rngs,
      accumulation,
      targets,
    )
  )
  updated = {
    name: _learn(states[name], found[name], student.settings)
    for name, student in students.items()
  }
  read = {
    "data/documents": documents,
    "data/tokens": add_up(jnp.sum(batch.segment_ids > 0)),
    "data/checksum": add_up(checksum(batch)),
  }
  return (
    {name: state for name, (state, _) in updated.items()},
    {name: metrics | read for name, (_, metrics) in updated.items()},
  )


def _learn(
  state: TrainState,
  result: Result,
  settings: StepSettings,
) -> tuple[TrainState, Metrics]:
  """Updates one student by the gradient and loss of the global batch."""
  before, (grads, loss, parts) = state, result
  grad_norm = optax.global_norm(grads)
  sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  if settings.spike:
    is_spike, usual = spike_guard.detect(
      state.usual, loss, grad_norm, settings.spike, state.skipped_in_a_row
    )
    sound &= ~is_spike
    state = dataclasses.replace(state, usual=usual)
  if settings.max_skipped is not None:
    sound &= before.skipped_in_a_row < settings.max_skipped
  learning_rate = settings.learning_rate(state.step)
  with jax.named_scope("optimizer"):
    state = update(state, grads, learning_rate, sound, settings)
  if settings.max_skipped is not None:
    state = _stay_ended(before, state, settings.max_skipped)
  metrics = {f"train/{name}": value for name, value in parts.items()} | {
    "train/loss": loss,
    "train/learning_rate": learning_rate,
    "train/grad_norm": grad_norm,
    "train/skipped": state.skipped,
    "train/skipped_in_a_row": state.skipped_in_a_row,
  }
  if settings.spike:
    metrics["train/spikes"] = state.usual["spikes"]
  return state, metrics


def _stay_ended(
  before: TrainState, after: TrainState, max_skipped: int
) -> TrainState:
  """Keeps the counters of a student that ended; only its step goes on."""
  ended = before.skipped_in_a_row >= max_skipped
  kept = {
    name: nonfinite.choose(ended, getattr(before, name), getattr(after, name))
    for name in ("skipped", "skipped_in_a_row", "usual")
  }
  return dataclasses.replace(after, **kept)
