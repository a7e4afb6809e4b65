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

from time_jax.core.arrays import Batch, Qkv
from time_jax.models.family import Params
from time_jax.relations.loss import relation_sums
from time_jax.step.objective import Objective
from time_jax.step.train_step import TrainState


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
  leaves, tree = jax.tree.flatten(params)
  # A part of its own: a step touches few rows of the table, its gradient all.
  words = objective.teacher.vocab_size
  (place,) = [i for i, x in enumerate(leaves) if x.shape[:1] == (words,)]
  table = leaves.pop(place)

  def student(leaves: list[Array], table: Array) -> Any:
    whole = [*leaves[:place], table, *leaves[place:]]
    return _student(objective, jax.tree.unflatten(tree, whole), batch)

  targets_of = jax.jit(objective.targets)
  targets, found = targets_of(frozen, batch), jax.jit(student)(leaves, table)
  backward = jax.jit(
    lambda leaves, table, cotangents: jax.vjp(
      lambda leaves: student(leaves, table), leaves
    )[1](cotangents)
  )
  dtype = found.query.dtype
  scatter = jax.jit(
    lambda table, cotangents: jax.vjp(
      lambda table: jnp.take(table.astype(dtype), batch.tokens, axis=0), table
    )[1](cotangents)
  )
  relations = jax.jit(
    lambda found, targets: jax.value_and_grad(_relations)(
      found, targets, batch, objective
    )
  )
  looked_up = jnp.ones((*batch.tokens.shape, table.shape[1]), dtype)
  (of_leaves,) = backward(leaves, table, found)
  (of_table,) = scatter(table, looked_up)
  parts = {
    "teacher forward": lambda: targets_of(frozen, batch),
    "student forward and backward": lambda: backward(leaves, table, found),
    "token table's gradient": lambda: scatter(table, looked_up),
    "relations": lambda: relations(found, targets),
  }
  seconds = {name: _time(part, repeats) for name, part in parts.items()}
  grads = [*of_leaves[:place], of_table, *of_leaves[place:]]
  seconds["gradient norm and optimizer"] = _time_optimizer(
    tx, state, jax.tree.unflatten(tree, grads), repeats
  )
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
  """As in a step: the state donated, and kept where the norm is not finite."""

  def update(kept: Any, grads: Params) -> Any:
    params, opt_state = kept
    finite = jnp.isfinite(optax.global_norm(grads))
    direction, opt_state = tx.update(grads, opt_state, params)
    params = jax.tree.map(lambda p, d: p - 1e-6 * d, params, direction)
    return jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), (params, opt_state), kept
    )

  compiled = jax.jit(update, donate_argnums=0)
  kept = (state.params, state.opt_state)

  def part() -> Any:
    nonlocal kept
    kept = compiled(kept, grads)
    return kept

  return _time(part, repeats)
