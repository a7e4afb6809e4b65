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
  """Compiles the evaluation once for all checkpoints.

  Args:
    objective: teacher, student and relations.
    mesh: the devices.

  Returns:
    (student params, teacher params, global batches of one shape) -> the mean
    over all documents as "relation_loss", and each relation's as "kl_...".
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
    found: list[dict[str, Array]] = []
    with sharding.use_mesh(mesh):
      for batch in batches:
        found.append(sums(params, teacher_params, batch))
        # The devices have the next batch queued, and never more than two: who
        # makes them can tell how far they are.
        jax.block_until_ready(found[-3:-2])
    # fsum: the mean does not depend on the order or number of batches.
    added = {
      name: math.fsum(float(one[name]) for one in found)
      for name in next(iter(found), {})
    }
    documents = max(added.pop("documents", 0), 1)
    return {name: total / documents for name, total in added.items()}

  return evaluate
