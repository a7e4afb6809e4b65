"""Where the time of a step goes: its parts, each compiled and timed alone.

In the step itself the compiler sees all parts together, so their sum is near
the step's time but not equal to it; the difference is reported as the rest.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from time_jax.bench.common.step_runner import StepRunner
from time_jax.core.arrays import Batch, Qkv, Targets
from time_jax.models.family import Params
from time_jax.relations.loss import relation_sums
from time_jax.run import assembly
from time_jax.step.state import TrainState, update


def time_parts(
  runner: StepRunner, batch: Batch, repeats: int
) -> dict[str, float]:
  """Times the parts of a step.

  Args:
    runner: the step of one student; the buffers of its state are donated.
    batch: batch on the devices.
    repeats: number of rounds that count, after one that does not.

  Returns:
    Name of a part -> median seconds.
  """
  ((name, objective),) = runner.objectives.items()
  teacher_params = objective.teacher.params
  leaves, tree = jax.tree.flatten(runner.states[name].params)
  # The token table is a part of its own: a step touches few of its rows, but
  # its gradient has all of them.
  vocab_size = objective.teacher.vocab_size
  (place,) = [i for i, x in enumerate(leaves) if x.shape[:1] == (vocab_size,)]
  table = leaves.pop(place)

  def join(leaves: list[Array], table: Array) -> Params:
    return jax.tree.unflatten(tree, [*leaves[:place], table, *leaves[place:]])

  def student(leaves: list[Array], table: Array) -> Any:
    return objective.student.apply(
      {"params": join(leaves, table)},
      batch,
      deterministic=False,
      rngs={"dropout": jax.random.key(0)},
    )

  def loss(projections: Qkv, targets: Targets) -> Array:
    sums = relation_sums(
      targets.projections[objective.layer],
      projections,
      batch.segment_ids,
      num_heads=objective.num_heads,
      relations=objective.weights,
      implementation=objective.implementation,
    )
    return jnp.sum(jnp.stack(list(sums.values())))

  teacher = jax.jit(objective.targets)
  targets = teacher(teacher_params, batch)
  projections = jax.jit(student)(leaves, table)
  dtype = projections.query.dtype
  backward = jax.jit(
    lambda leaves, table, cotangents: jax.vjp(
      lambda leaves: student(leaves, table), leaves
    )[1](cotangents)
  )
  scatter = jax.jit(
    lambda table, cotangents: jax.vjp(
      lambda table: jnp.take(table.astype(dtype), batch.tokens, axis=0), table
    )[1](cotangents)
  )
  relations = jax.jit(jax.value_and_grad(loss))
  cotangents = jnp.ones((*batch.tokens.shape, table.shape[1]), dtype)
  (leaves_grad,) = backward(leaves, table, projections)
  (table_grad,) = scatter(table, cotangents)
  grads = join(leaves_grad, table_grad)
  parts = {
    "teacher forward": lambda: teacher(teacher_params, batch),
    "student forward and backward": lambda: backward(
      leaves, table, projections
    ),
    "token table's gradient": lambda: scatter(table, cotangents),
    "relations": lambda: relations(projections, targets),
    # Last, as it donates the state.
    "gradient norm and optimizer": _optimizer_part(runner, grads),
  }
  return {name: _time(part, repeats) for name, part in parts.items()}


def _optimizer_part(runner: StepRunner, grads: Params) -> Callable[[], Any]:
  """Returns the update of a step, which donates its state."""
  settings = assembly.step_settings(runner.config)

  def move(state: TrainState, grads: Params) -> TrainState:
    sound = jnp.isfinite(optax.global_norm(grads))
    return update(state, grads, 1e-6, sound, settings)

  compiled = jax.jit(move, donate_argnums=0)
  (state,) = runner.states.values()

  def part() -> TrainState:
    nonlocal state
    state = compiled(state, grads)
    return state

  return part


def _time(part: Callable[[], Any], repeats: int) -> float:
  jax.block_until_ready(part())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(part())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)
