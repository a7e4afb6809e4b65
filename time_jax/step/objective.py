"""The objective: a student's relations should be its teacher's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.models.family import Params, Teacher
from time_jax.relations import loss as relations


@dataclasses.dataclass(frozen=True)
class Objective:
  """Relation loss between a frozen teacher and a student (MiniLMv2, eq. 7).

  Attributes:
    teacher: what to match. Its parameters are passed to `targets`, never read
      from here inside a jitted function: they are an argument of the step.
    student: encoder whose last block is trained to match.
    num_heads: relation heads R.
    weights: relation name -> weight in the loss.
    implementation: of the relation loss, see `relations.loss`.
  """

  teacher: Teacher
  student: nn.Module
  num_heads: int
  weights: Mapping[str, float]
  implementation: str

  def targets(self, teacher_params: Params, batch: Batch) -> Qkv:
    """The teacher's projections; computed outside the differentiated part."""
    return self.teacher.project(teacher_params, batch)

  def loss(
    self,
    params: Params,
    batch: Batch,
    targets: Qkv,
    num_documents: Float[Array, ""],
    dropout_rng: Array | None = None,
  ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """This batch's share of the global mean.

    Args:
      params: the student's.
      batch: rows, possibly only some of the global batch's.
      targets: the teacher's projections of the same rows.
      num_documents: of the whole global batch, so that shares add up.
      dropout_rng: None switches dropout off.

    Returns:
      The weighted loss, and every relation's unweighted part of it.
    """
    rngs: dict[str, Any] = {}
    if dropout_rng is not None:
      rngs = {"dropout": dropout_rng}
    projections: Any = self.student.apply(
      {"params": params}, batch, deterministic=not rngs, rngs=rngs
    )
    with jax.named_scope("relations"):
      sums = relations.relation_sums(
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
