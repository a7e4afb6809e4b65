"""The objective: a student whose relations are like its teacher's."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv, Targets
from time_jax.models.family import Params, Teacher, init_params
from time_jax.relations.loss import relation_sums


@dataclasses.dataclass(frozen=True)
class Objective:
  """Relation loss between a frozen teacher and a student (MiniLMv2, eq. 7).

  Attributes:
    teacher: frozen network. Its parameters are passed to `targets` and never
      read from here in a jitted function: they are an argument of the step.
    student: encoder that is trained; its last block is compared.
    num_heads: number of relation heads R.
    weights: weight of each relation in the loss, by its name.
    implementation: implementation of the relation loss, see `relations.loss`.
    layer: the teacher's layer that the student learns of, 1-based.
  """

  teacher: Teacher
  student: nn.Module
  num_heads: int
  weights: Mapping[str, float]
  implementation: str
  layer: int

  def init(self, rng: Array) -> Params:
    """Returns random parameters of the student, boxed with logical axes."""
    return init_params(self.student, rng)

  def targets(self, teacher_params: Params, batch: Batch) -> Qkv:
    """Returns the teacher's projections; they are not differentiated."""
    return self.teacher.targets(teacher_params, batch)[self.layer]

  def loss(
    self,
    params: Params,
    batch: Batch,
    targets: Qkv,
    num_documents: Float[Array, ""],
    dropout_rng: Array | None = None,
  ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the share of the global loss that these rows contribute.

    The global loss is the mean over the documents of the global batch; the
    shares of all its rows add up to it.

    A term that reaches parameters which do not feed the projections of the last
    block needs a change of `models.family.Family.feeds_projections` too: the
    optimizer leaves all other parameters as they are.

    Args:
      params: parameters of the student.
      batch: rows, all or some of the global batch.
      targets: the teacher's projections of these rows.
      num_documents: number of documents in the global batch.
      dropout_rng: random key of dropout; None: no dropout.

    Returns:
      The weighted sum over the relations, and each relation's unweighted part.
    """
    rngs: dict[str, Any] = {}
    if dropout_rng is not None:
      rngs = {"dropout": dropout_rng}
    projections: Any = self.student.apply(
      {"params": params}, batch, deterministic=not rngs, rngs=rngs
    )
    with jax.named_scope("relations"):
      sums = relation_sums(
        targets,
        projections,
        batch.segment_ids,
        num_heads=self.num_heads,
        relations=self.weights,
        implementation=self.implementation,
      )
    parts = {name: total / num_documents for name, total in sums.items()}
    loss = jnp.sum(
      jnp.stack([self.weights[name] * parts[name] for name in parts])
    )
    return loss, parts


def shared(teacher: Teacher, read: Mapping[int, Collection[str]]) -> Teacher:
  """Returns a teacher whose targets do not depend on who reads them.

  The compiler computes them once, and fuses none of them with a student. So
  each student learns of the same numbers in any company.

  Args:
    teacher: the teacher of several students.
    read: fields of `Qkv` that some student reads, by the teacher's layer.
  """

  def targets(params: Params, batch: Batch) -> Targets:
    found = dict(teacher.targets(params, batch))
    for layer, names in read.items():
      # A barrier keeps all that goes into it: only what is read may.
      own = {name: getattr(found[layer], name) for name in sorted(names)}
      found[layer] = dataclasses.replace(
        found[layer], **lax.optimization_barrier(own)
      )
    return found

  return dataclasses.replace(teacher, targets=targets)


def targets_of(
  objectives: Mapping[str, Objective],
  teacher_params: Params,
  batch: Batch,
  known: Targets | None = None,
) -> dict[str, Qkv]:
  """Returns what each student learns of, from one pass of the teacher.

  Args:
    objectives: relation loss of each student, by name; all of one teacher.
    teacher_params: the teacher's parameters.
    batch: the rows.
    known: the teacher's projections of them, if it need not be asked.
  """
  teacher = next(iter(objectives.values())).teacher
  found = known or teacher.targets(teacher_params, batch)
  return {name: found[own.layer] for name, own in objectives.items()}
