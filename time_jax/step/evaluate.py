"""The loss on held-out rows, without dropout."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from time_jax.core.arrays import Batch
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.relations.loss import count_documents
from time_jax.step.objective import Objective, targets_of

PAPER = {"qq": 1.0, "kk": 1.0, "vv": 1.0}  # relations and their weights
Scores = dict[str, float]
Evaluator = Callable[
  [Mapping[str, Params], Params, Iterable[Batch]], dict[str, Scores]
]


def make_evaluator(
  objectives: Mapping[str, Objective], mesh: Mesh
) -> Evaluator:
  """Returns a function that evaluates students; it is compiled once.

  Args:
    objectives: loss of each student, by name; all of one teacher.
    mesh: devices.

  Returns:
    A function of the parameters of some of the students by name, the teacher's
    parameters and global batches of one shape. It returns means over all
    documents for each student: "loss", the loss it is trained with, and
    "kl_qq" and so on for each relation; where hidden states are compared,
    "hidden" and the sum over the relations, "relation_loss", as well. For no
    batches there is nothing. Where no relation has a weight, those of the paper
    are measured, which are then no part of "loss".
  """
  measured = {name: _measured(own) for name, own in objectives.items()}

  @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
  def sums(
    params: Mapping[str, Params], teacher_params: Params, batch: Batch
  ) -> tuple[dict[str, dict[str, Array]], Array]:
    asked = {name: measured[name] for name in params}
    targets = targets_of(asked, teacher_params, batch)
    one = jnp.ones((), jnp.float32)
    found = {}
    for name, objective in asked.items():
      parts = objective.parts(params[name], batch, targets[name], one)
      found[name] = {"loss": objectives[name].total(parts), **parts}
      if objective.hidden:
        found[name]["relation_loss"] = objective.relation_loss(parts)
    return found, count_documents(batch.segment_ids)

  def evaluate(
    params: Mapping[str, Params],
    teacher_params: Params,
    batches: Iterable[Batch],
  ) -> dict[str, Scores]:
    results = []
    with sharding.use_mesh(mesh):
      for batch in batches:
        results.append(sums(params, teacher_params, batch))
        # The devices have the next batch queued, and never more than two, so
        # that the iterator of batches knows how far they are.
        jax.block_until_ready(results[-3:-2])
    # With fsum, the mean does not depend on the order or number of batches.
    documents = max(sum(int(number) for _, number in results), 1)
    return {
      name: _mean([found[name] for found, _ in results], documents)
      for name in params
    }

  return evaluate


def _measured(objective: Objective) -> Objective:
  """Returns an objective some of whose relations have a weight."""
  return dataclasses.replace(objective, weights=objective.weights or PAPER)


def _mean(results: Sequence[Mapping[str, Array]], documents: int) -> Scores:
  names = next(iter(results), {})
  return {
    name: math.fsum(float(found[name]) for found in results) / documents
    for name in names
  }
