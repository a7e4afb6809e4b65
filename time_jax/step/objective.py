"""The objective: a student whose relations are like its teacher's.

A second term, off by default, compares hidden states, see `hidden_term`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv, Targets
from time_jax.models.encoder import Hidden
from time_jax.models.family import Params, Teacher, init_params
from time_jax.relations.loss import relation_sums
from time_jax.step.hidden_term import HiddenTerm

HIDDEN = "hidden"  # what the hidden-state term is called among the parts


@dataclasses.dataclass(frozen=True)
class Objective:
  """Loss of a student: relations (MiniLMv2, eq. 7), perhaps hidden states.

  Attributes:
    teacher: frozen network. Its parameters are passed to `targets` and never
      read from here in a jitted function: they are an argument of the step.
    student: encoder that is trained; its last block is compared.
    num_heads: number of relation heads R.
    weights: weight of each relation in the loss, by its name.
    implementation: implementation of the relation loss, see `relations.loss`.
    layer: the teacher's layer whose relations the student learns, 1-based.
    hidden: a second term of the loss; None: there is none.
  """

  teacher: Teacher
  student: nn.Module
  num_heads: int
  weights: Mapping[str, float]
  implementation: str
  layer: int
  hidden: HiddenTerm | None = None

  def init(self, rng: Array) -> Params:
    """Returns random parameters of the student, boxed with logical axes."""
    return init_params(self.student, rng)

  def targets(self, teacher_params: Params, batch: Batch) -> Targets:
    """Returns what is learnt of the teacher; it is not differentiated."""
    return self.own(self.teacher.targets(teacher_params, batch))

  def own(self, targets: Targets) -> Targets:
    """Returns what this student reads of the targets of several."""
    layers = self.hidden.teacher_layers if self.hidden else ()
    return Targets(
      {self.layer: targets.projections[self.layer]},
      {layer: targets.states[layer] for layer in layers},
    )

  def forward(
    self, params: Params, batch: Batch, dropout_rng: Array | None = None
  ) -> tuple[Qkv, Mapping[int, Hidden]]:
    """Returns what is compared of the student.

    Args:
      params: parameters of the student.
      batch: the rows.
      dropout_rng: random key of dropout; None: no dropout.

    Returns:
      The projections of its last block, and the hidden states of the layers
      that the hidden-state term compares.
    """
    how: dict[str, Any] = {"rngs": {}, "deterministic": True}
    if dropout_rng is not None:
      how = {"rngs": {"dropout": dropout_rng}, "deterministic": False}
    if self.hidden is None:
      qkv: Any = self.student.apply({"params": params}, batch, **how)
      return qkv, {}
    found: Any = self.student.apply(
      {"params": params},
      batch,
      self.hidden.student_layers,
      method="with_states",
      **how,
    )
    return found

  def loss(
    self,
    params: Params,
    batch: Batch,
    targets: Targets,
    num_documents: Float[Array, ""],
    dropout_rng: Array | None = None,
  ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the share of the global loss that these rows contribute.

    The global loss is the mean over the documents of the global batch; the
    shares of all its rows add up to it.

    A term that reaches parameters which do not feed the projections of the last
    block needs a change of `run.assembly.step_settings` too: the optimizer
    leaves all other parameters as they are.

    Args:
      params: parameters of the student.
      batch: rows, all or some of the global batch.
      targets: what is learnt of the teacher, of these rows, see `own`.
      num_documents: number of documents in the global batch.
      dropout_rng: random key of dropout; None: no dropout.

    Returns:
      The weighted sum over the parts, and each part unweighted: "kl_qq" and so
      on for each relation, and "hidden" for hidden states.
    """
    parts = self.parts(params, batch, targets, num_documents, dropout_rng)
    return self.total(parts), parts

  def total(self, parts: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
    """Returns the weighted sum over all parts, which is the loss.

    Args:
      parts: result of `parts`.
    """
    loss = self.relation_loss(parts)
    if self.hidden is not None:
      loss += self.hidden.weight * parts[HIDDEN]
    return loss

  def relation_loss(
    self, parts: Mapping[str, Float[Array, ""]]
  ) -> Float[Array, ""]:
    """Returns the weighted sum over the relations.

    Args:
      parts: result of `parts`.
    """
    if not self.weights:
      return jnp.zeros(())
    return jnp.sum(
      jnp.stack([self.weights[n] * parts[f"kl_{n}"] for n in self.weights])
    )

  def parts(
    self,
    params: Params,
    batch: Batch,
    targets: Targets,
    num_documents: Float[Array, ""],
    dropout_rng: Array | None = None,
  ) -> dict[str, Float[Array, ""]]:
    """Returns the parts of `loss`, whose arguments it takes."""
    projections, states = self.forward(params, batch, dropout_rng)
    with jax.named_scope("relations"):
      sums = relation_sums(
        targets.projections[self.layer],
        projections,
        batch.segment_ids,
        num_heads=self.num_heads,
        relations=self.weights,
        implementation=self.implementation,
      )
    parts = {f"kl_{n}": total / num_documents for n, total in sums.items()}
    if self.hidden is not None:
      with jax.named_scope(HIDDEN):
        total = self.hidden.sum(targets.states, states, batch.segment_ids)
      parts[HIDDEN] = total / num_documents
    return parts


def shared(teacher: Teacher, read: Mapping[int, Collection[str]]) -> Teacher:
  """Returns a teacher whose targets do not depend on who reads them.

  The compiler computes them once, and fuses none of them with a student. So
  each student learns of the same numbers in any company.

  Args:
    teacher: the teacher of several students, who read all of its states.
    read: fields of `Qkv` that some student reads, by the teacher's layer.
  """

  def targets(params: Params, batch: Batch) -> Targets:
    handed = teacher.targets(params, batch)
    found = dict(handed.projections)
    for layer, names in read.items():
      # A barrier keeps all that goes into it: only what is read may.
      own = {name: getattr(found[layer], name) for name in sorted(names)}
      found[layer] = dataclasses.replace(
        found[layer], **lax.optimization_barrier(own)
      )
    states = {
      layer: lax.optimization_barrier(state)
      for layer, state in handed.states.items()
    }
    return Targets(found, states)

  return dataclasses.replace(teacher, targets=targets)


def targets_of(
  objectives: Mapping[str, Objective],
  teacher_params: Params,
  batch: Batch,
  known: Targets | None = None,
) -> dict[str, Targets]:
  """Returns what each student learns of, from one pass of the teacher.

  Args:
    objectives: loss of each student, by name; all of one teacher.
    teacher_params: the teacher's parameters.
    batch: the rows.
    known: what the teacher makes of them, if it need not be asked.
  """
  teacher = next(iter(objectives.values())).teacher
  found = known or teacher.targets(teacher_params, batch)
  return {name: objective.own(found) for name, objective in objectives.items()}
