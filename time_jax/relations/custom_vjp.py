"""The gradient that every sweep shares, and its rows and heads on the devices.

A sweep gives the relation KL and the student's gradient together. Here it
becomes a function that JAX can differentiate, whose backward pass only scales,
and that runs on a mesh: rows over the batch axes, relation heads over the
axis of heads. What the mesh is called stays in `time_jax.parallel.sharding`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from time_jax.core.arrays import Ids
from time_jax.parallel import sharding

# The projections x and y of a relation, [B, T, D] each; of a projection with
# itself only the one, so that it is read once and has one gradient.
Operands = tuple[Array, ...]


@runtime_checkable
class Sweep(Protocol):
  """The relation KL and its gradient in one go."""

  def __call__(
    self,
    teacher: Operands,
    student: Operands,
    segment_ids: Ids,
    query_weights: Float[Array, "B T"],
    *,
    num_heads: int,
  ) -> tuple[Float[Array, " B"], Operands]:
    """Computes both for all rows that it is given.

    Args:
      teacher: one or two projections, constants.
      student: as many of the student; its width may differ.
      segment_ids: 0 for padding, else the document's number in its row.
      query_weights: weight of every query, 0 for padding.
      num_heads: R, a divisor of both widths.

    Returns:
      The weighted KL of every row, and the gradient of their sum with respect
      to `student`, in its dtype; exactly 0 at padding.
    """
    ...


def relation_kl(
  teacher: tuple[Float[Array, "B T Dt"], Float[Array, "B S Dt"]],
  student: tuple[Float[Array, "B T Ds"], Float[Array, "B S Ds"]],
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
  sweep: Sweep,
) -> Float[Array, ""]:
  """The same as `dense.relation_kl`, by a sweep.

  Differentiable with respect to `student` only; the teacher, the segments and
  the weights are constants.

  Args:
    teacher: the two projections that form the teacher's relation.
    student: the same of the student.
    segment_ids: 0 for padding, else the document's number in its row.
    query_weights: weight of every query row, 0 for padding.
    num_heads: R, a divisor of both widths.
    sweep: what computes it.

  Returns:
    The weighted sum of KL(teacher || student), float32.
  """
  itself = teacher[0] is teacher[1] and student[0] is student[1]
  used = 1 if itself else 2
  constants = jax.lax.stop_gradient(
    (teacher[:used], segment_ids, query_weights)
  )
  return _relation_kl(sweep, num_heads, student[:used], *constants)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _relation_kl(
  sweep: Sweep,
  num_heads: int,
  student: Operands,
  teacher: Operands,
  segment_ids: Array,
  w: Array,
) -> Array:
  return _forward(sweep, num_heads, student, teacher, segment_ids, w)[0]


def _forward(
  sweep: Sweep,
  num_heads: int,
  student: Operands,
  teacher: Operands,
  segment_ids: Array,
  w: Array,
) -> tuple[Array, Operands]:
  run = _on_devices(sweep, num_heads, student, segment_ids.shape[0])
  kl_B, grads = run(teacher, student, segment_ids, w)
  return kl_B.sum(), grads


def _backward(
  sweep: Sweep, num_heads: int, grads: Operands, cotangent: Array
) -> tuple:
  del sweep, num_heads
  scaled = jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), grads)
  return scaled, None, None, None


_relation_kl.defvjp(_forward, _backward)


def _on_devices(
  sweep: Sweep, num_heads: int, student: Operands, rows: int
) -> Callable[..., tuple[Array, Operands]]:
  """The sweep, each device taking its own rows and heads.

  The compiler could not split a kernel by itself, and would let all devices
  of the axis of heads compute the same.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size == 1 or set(mesh.axis_types) != {AxisType.Auto}:
    # One device; or the program is one device's already, as under pmap.
    return functools.partial(sweep, num_heads=num_heads)
  spec = nn.logical_to_mesh_axes(("batch", "length", "heads"), sharding.RULES)
  assert spec is not None
  batch, length, heads = spec
  batch, _ = _fit(mesh, batch, rows)
  heads, ways = _fit(mesh, heads, num_heads)

  def local(*args: Any) -> tuple[Array, Operands]:
    kl_B, grads = sweep(*args, num_heads=num_heads // ways)
    return (jax.lax.psum(kl_B, heads) if heads else kl_B), grads

  projections = (P(batch, length, heads),) * len(student)
  return jax.shard_map(
    local,
    in_specs=(projections, projections, P(batch), P(batch)),
    out_specs=(P(batch), projections),
    check_vma=False,  # kernels do not say how their results vary
  )


def _fit(mesh: AbstractMesh, axes: Any, size: int) -> tuple[Any, int]:
  """The axes and their number of ways; none where they do not divide."""
  names = (axes,) if isinstance(axes, str) else axes or ()
  ways = math.prod(mesh.shape[name] for name in names)
  return (axes, ways) if names and size % ways == 0 else (None, 1)
