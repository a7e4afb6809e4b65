"""The gradient rule of every fast implementation, and its place on a mesh.

An implementation (`one_pass` and the kernels) computes the relation KL and the
student's gradient together. Here that becomes a function that JAX can
differentiate, whose backward pass only scales, and that runs on a mesh: rows
over the batch axes, relation heads over the axis of heads. What these axes are
called stays in `time_jax.parallel.sharding`.
"""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from time_jax.core.arrays import Ids
from time_jax.parallel import sharding

# The projections x and y of a relation, [B, T, D] each. Of a projection with
# itself only the one, so that it is read once and has one gradient.
Operands = tuple[Array, ...]
KlAndGrad = tuple[Float[Array, " B"], Operands]


class Inputs(NamedTuple):
  """What the relation KL is computed of.

  Attributes:
    teacher: one or two projections; constants.
    student: as many projections of the student; their width may differ.
    segment_ids: number of each token's document in its row; 0 for padding.
    query_weights: weight of every query; 0 for padding.
  """

  teacher: Operands
  student: Operands
  segment_ids: Ids
  query_weights: Float[Array, "B T"]


@runtime_checkable
class Implementation(Protocol):
  """The relation KL and its gradient, computed together."""

  def __call__(self, inputs: Inputs, *, num_heads: int) -> KlAndGrad:
    """Computes both for all rows that it is given.

    Args:
      inputs: projections of the rows.
      num_heads: R, a divisor of both widths.

    Returns:
      The weighted KL of every row, and the gradient of their sum with respect
      to the student's projections, in their dtype; exactly 0 at padding.
    """
    ...


def relation_kl(
  teacher: tuple[Float[Array, "B T Dt"], Float[Array, "B S Dt"]],
  student: tuple[Float[Array, "B T Ds"], Float[Array, "B S Ds"]],
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
  implementation: Implementation,
) -> Float[Array, ""]:
  """Computes `dense.relation_kl` by a fast implementation.

  Differentiable with respect to `student` only; the teacher, the segments and
  the weights are constants.

  Args:
    teacher: the two projections that form the teacher's relation.
    student: the two projections of the student; their width may differ.
    segment_ids: number of each token's document in its row; 0 for padding.
    query_weights: weight of every query; 0 for padding.
    num_heads: R, a divisor of both widths.
    implementation: function that computes the KL and its gradient.
  """
  with_itself = teacher[0] is teacher[1] and student[0] is student[1]
  used = 1 if with_itself else 2
  constants = jax.lax.stop_gradient(
    (teacher[:used], segment_ids, query_weights)
  )
  return _relation_kl(implementation, num_heads, student[:used], *constants)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _relation_kl(
  implementation: Implementation,
  num_heads: int,
  student: Operands,
  *constants: Any,
) -> Array:
  return _forward(implementation, num_heads, student, *constants)[0]


def _forward(
  implementation: Implementation,
  num_heads: int,
  student: Operands,
  teacher: Operands,
  *rows: Array,
) -> tuple[Array, Operands]:
  inputs = Inputs(teacher, student, *rows)
  kl_B, grads = _on_each_device(implementation, num_heads, inputs)
  return kl_B.sum(), grads


def _backward(
  implementation: Implementation,
  num_heads: int,
  grads: Operands,
  cotangent: Array,
) -> tuple[Any, ...]:
  del implementation, num_heads
  scaled = jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), grads)
  return scaled, None, None, None


_relation_kl.defvjp(_forward, _backward)


def _on_each_device(
  implementation: Implementation, num_heads: int, inputs: Inputs
) -> KlAndGrad:
  """Runs the implementation on each device's own rows and heads.

  The compiler cannot split a kernel by itself, and would have all devices of
  the axis of heads compute the same.
  """
  mesh = sharding.automatic_mesh()
  if mesh is None:
    return _traced_once(implementation, num_heads, inputs)
  batch, _ = sharding.split_evenly(mesh, "batch", len(inputs.segment_ids))
  heads, ways = sharding.split_evenly(mesh, "heads", num_heads)

  def local(inputs: Inputs) -> KlAndGrad:
    kl_B, grads = _traced_once(implementation, num_heads // ways, inputs)
    return (jax.lax.psum(kl_B, heads) if heads else kl_B), grads

  projections = (P(batch, None, heads),) * len(inputs.student)
  specs = Inputs._make((projections, projections, P(batch), P(batch)))
  return jax.shard_map(
    local,
    in_specs=(specs,),
    out_specs=(P(batch), projections),
    check_vma=False,  # Kernels do not say how their results vary.
  )(inputs)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _traced_once(
  implementation: Implementation, num_heads: int, inputs: Inputs
) -> KlAndGrad:
  """Runs the implementation; Python reads it once for all of the same shape.

  A step has it many times: for each relation of each student, each time with
  and without the gradient, and for the scores of held-out text.
  """
  return implementation(inputs, num_heads=num_heads)
