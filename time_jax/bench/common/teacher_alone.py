"""The teacher's part of a step, to be timed alone."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from time_jax.core.arrays import PROJECTIONS, Batch
from time_jax.models.family import Params
from time_jax.step import gradient_accumulation
from time_jax.step.objective import Objective, targets_of
from time_jax.step.train_step import Metrics


def ask(
  objectives: Mapping[str, Objective],
  accumulation: int,
  params: Mapping[str, Params],
  teacher_params: Params,
  batch: Batch,
) -> Metrics:
  """Computes what the students of a step read of their teacher, and adds it up.

  Nothing but the sum leaves the devices, and none of it can be left out.

  Args:
    objectives: loss of each student, by name; all of one teacher.
    accumulation: micro-batches of a step, each of which asks the teacher.
    params: parameters of each student, whose sizes decide how a step lays the
      teacher out.
    teacher_params: parameters of the teacher.
    batch: the global batch.

  Returns:
    The sum, and "data/tokens" as the step returns it.
  """
  rows = batch
  if accumulation > 1:
    rows = gradient_accumulation.split_rows(batch, accumulation)
    plans = gradient_accumulation.plan_exchanges(
      objectives, params, rows.tokens.shape[1]
    )
    teacher_params = gradient_accumulation.lay_out_teacher(
      teacher_params, objectives, plans
    )

  def add(total: Array, rows: Batch) -> tuple[Array, None]:
    return total + _sum(objectives, teacher_params, rows), None

  total = jnp.zeros(())
  if accumulation == 1:
    total, _ = add(total, rows)
  else:
    total, _ = lax.scan(add, total, rows)
  return {"sum": total, "data/tokens": jnp.sum(batch.segment_ids > 0)}


def _sum(
  objectives: Mapping[str, Objective], teacher_params: Params, rows: Batch
) -> Array:
  targets = targets_of(objectives, teacher_params, rows)
  read: dict[tuple[int, str], Array] = {}  # Each once, whoever reads it.
  for name, objective in objectives.items():
    layer = objective.layer
    for relation in objective.weights:
      for field in (PROJECTIONS[letter] for letter in relation):
        found = targets[name].projections[layer]
        read[layer, field] = getattr(found, field)
    for layer, state in targets[name].states.items():
      read[layer, "state"] = state
  sums = jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.float32), [*read.values()])
  return jnp.sum(jnp.stack(sums))
