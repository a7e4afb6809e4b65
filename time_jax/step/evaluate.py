"""Relation loss on held-out rows, without dropout."""

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from time_jax.core.arrays import Batch
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.relations.loss import count_documents
from time_jax.step.objective import Objective

Evaluator = Callable[[Params, Params, Iterable[Batch]], dict[str, float]]


def make_evaluator(objective: Objective, mesh: Mesh) -> Evaluator:
  """Returns a function that evaluates students; it is compiled once.

  Args:
    objective: the relation loss, with teacher and student.
    mesh: devices.

  Returns:
    A function of the student's parameters, the teacher's parameters and global
    batches of one shape. It returns means over all documents: "relation_loss",
    and "kl_qq" and so on for each relation; nothing for no batches.
  """

  @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
  def sums(params: Params, teacher_params: Params, batch: Batch) -> dict:
    targets = objective.targets(teacher_params, batch)
    one = jnp.ones((), jnp.float32)
    loss, parts = objective.loss(params, batch, targets, one)
    return {
      "relation_loss": loss,
      **{f"kl_{name}": value for name, value in parts.items()},
      "documents": count_documents(batch.segment_ids),
    }

  def evaluate(
    params: Params, teacher_params: Params, batches: Iterable[Batch]
  ) -> dict[str, float]:
    results: list[dict[str, Array]] = []
    with sharding.use_mesh(mesh):
      for batch in batches:
        results.append(sums(params, teacher_params, batch))
        # The devices have the next batch queued, and never more than two, so
        # that the iterator of batches knows how far they are.
        jax.block_until_ready(results[-3:-2])
    # With fsum, the mean does not depend on the order or number of batches.
    totals = {
      name: math.fsum(float(result[name]) for result in results)
      for name in next(iter(results), {})
    }
    documents = max(totals.pop("documents", 0), 1)
    return {name: total / documents for name, total in totals.items()}

  return evaluate
