"""Relation loss on held-out rows, without dropout."""

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from time_jax import sharding
from time_jax.arrays import Batch
from time_jax.distill import Objective
from time_jax.models.family import Params
from time_jax.relations.loss import count_documents

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
    totals: dict[str, list[Array]] = {}
    with sharding.use_mesh(mesh):
      for batch in batches:
        for name, value in sums(params, teacher_params, batch).items():
          totals.setdefault(name, []).append(value)
    # fsum: the mean does not depend on the order or number of batches.
    added = {k: math.fsum(map(float, v)) for k, v in totals.items()}
    documents = max(added.pop("documents", 0), 1)
    return {name: total / documents for name, total in added.items()}

  return evaluate
