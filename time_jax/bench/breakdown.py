"""Where a step's time goes: its parts, each compiled and timed on its own.

In the step the compiler sees all parts together, so that their sum is near
the step's time but not equal to it; the difference is shown as the rest.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from time_jax.arrays import Batch, Qkv
from time_jax.distill import Objective
from time_jax.models.family import Params
from time_jax.relations.loss import relation_sums
from time_jax.train_step import TrainState


def time_parts(
  objective: Objective,
  tx: optax.GradientTransformation,
  state: TrainState,
  batch: Batch,
  repeats: int,
) -> dict[str, float]:
  """Median seconds of every part of a step, by name.

  Args:
    objective: teacher and student.
    tx: the optimizer.
    state: of the run; its buffers are used up.
    batch: on the devices.
    repeats: rounds that count, after one that does not.
  """
  frozen, params = objective.teacher.params, state.params
  targets_of = jax.jit(objective.targets)
  found_of = jax.jit(lambda params: _student(objective, params, batch))
  targets, found = targets_of(frozen, batch), found_of(params)
  backward = jax.jit(
    lambda params, cotangents: jax.vjp(
      lambda params: _student(objective, params, batch), params
    )[1](cotangents)
  )
  relations = jax.jit(
    lambda found, targets: jax.value_and_grad(_relations)(
      found, targets, batch, objective
    )
  )
  (grads,) = backward(params, found)
  parts = {
    "teacher forward": lambda: targets_of(frozen, batch),
    "student forward and backward": lambda: backward(params, found),
    "relations": lambda: relations(found, targets),
  }
  seconds = {name: _time(part, repeats) for name, part in parts.items()}
  seconds["optimizer"] = _time_optimizer(tx, state, grads, repeats)
  return seconds


def _student(objective: Objective, params: Params, batch: Batch) -> Any:
  rngs = {"dropout": jax.random.key(0)}
  return objective.student.apply(
    {"params": params}, batch, deterministic=False, rngs=rngs
  )


def _relations(
  found: Qkv, targets: Qkv, batch: Batch, objective: Objective
) -> Array:
  sums = relation_sums(
    targets,
    found,
    batch.segment_ids,
    num_heads=objective.num_heads,
    relations=objective.weights,
    implementation=objective.implementation,
  )
  return jnp.sum(jnp.stack(list(sums.values())))


def _time(part: Callable[[], Any], repeats: int) -> float:
  jax.block_until_ready(part())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(part())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def _time_optimizer(
  tx: optax.GradientTransformation,
  state: TrainState,
  grads: Params,
  repeats: int,
) -> float:
  """With the state donated, as the step has it."""

  def update(kept: Any, grads: Params) -> Any:
    params, opt_state = kept
    direction, opt_state = tx.update(grads, opt_state, params)
    params = jax.tree.map(lambda p, d: p - 1e-6 * d, params, direction)
    return params, opt_state

  compiled = jax.jit(update, donate_argnums=0)
  kept = (state.params, state.opt_state)

  def part() -> Any:
    nonlocal kept
    kept = compiled(kept, grads)
    return kept

  return _time(part, repeats)
