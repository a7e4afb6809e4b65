"""The gradient of a batch, in micro-batches that devices exchange nothing for.

Left to itself the compiler gathers split weights and reduces gradients in every
micro-batch. Here weights are gathered before the first, each device adds up the
gradients of its own rows, and after the last they are reduced, once. Word
tables stay split in columns, which `models.lookup` exchanges by row.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.models.family import Params, abstract_params
from time_jax.parallel import sharding
from time_jax.step.objective import Objective

# Bytes of weights that a device holds whole for the length of a step. More are
# left to the compiler, which gathers them layer by layer, in each micro-batch.
_GATHERED = 2**30

# Gradient, loss and its parts.
Result = tuple[Params, Array, dict[str, Array]]


def gradients(
  params: Params,
  teacher_params: Params,
  batch: Batch,
  objective: Objective,
  documents: Float[Array, ""],
  rng: Array,
  accumulation: int,
) -> Result:
  """Gradient, loss and its parts, summed over micro-batches.

  Args:
    params: the student's.
    teacher_params: see `Objective.targets`.
    batch: rows.
    objective: the relation loss.
    documents: of the global batch.
    rng: of dropout.
    accumulation: micro-batches that the rows are split into.
  """

  def student(params: Params, rows: Batch, targets: Qkv, rng: Array) -> Result:
    with jax.named_scope("student"):
      (loss, parts), grads = jax.value_and_grad(objective.loss, has_aux=True)(
        params, rows, targets, documents, rng
      )
    return grads, loss, parts

  def targets(rows: Batch) -> Qkv:
    with jax.named_scope("teacher"):
      return objective.targets(teacher_params, rows)

  if accumulation == 1:
    return student(params, batch, targets(batch), jax.random.fold_in(rng, 0))

  # Row i goes to micro-batch i % accumulation: each device then finds all of
  # its micro-batches among the rows it already holds.
  def split(x: Array) -> Array:
    return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

  def add(total: Result, *arguments: Any) -> Result:
    return jax.tree.map(jnp.add, total, student(*arguments))

  def one(total: Result, item: tuple[Batch, Array]) -> tuple[Result, None]:
    rows, index = item
    arguments = rows, targets(rows), jax.random.fold_in(rng, index)
    return add(total, params, *arguments), None

  items = jax.tree.map(split, batch), jnp.arange(accumulation)
  rows = jax.tree.map(lambda x: x[0], items[0])
  result = jax.eval_shape(lambda: student(params, rows, targets(rows), rng))
  spread = _spread(objective.student, params, len(rows.tokens))
  if not spread:
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)
    return lax.scan(one, zeros, items)[0]
  teacher_params = _gather(teacher_params)
  params = spread.gather(params)
  add = spread.on_each_device(add)
  total, _ = lax.scan(one, spread.zeros(params, result), items)
  return spread.reduce(total)


@dataclasses.dataclass(frozen=True)
class _Spread:
  """How a step's micro-batches are spread over devices that hold whole rows.

  Attributes:
    rows: mesh axes of the rows.
    stored: layout of every parameter.
    used: the same while micro-batches are computed.
  """

  rows: tuple[str, ...]
  stored: Any
  used: Any

  @property
  def apart(self) -> tuple[Any, P, P]:
    """Of results that are still to be summed, over a leading axis."""
    rows = P(self.rows)
    grads = jax.tree.map(lambda spec: P(self._summed(spec), *spec), self.used)
    return grads, rows, rows

  def _summed(self, used: P) -> tuple[str, ...]:
    return tuple(axis for axis in self.rows if axis not in used)

  def zeros(self, params: Params, result: Result) -> Result:
    """To begin with: gradients of such parameters, the rest of such shapes."""

    def local(params: Params) -> Result:
      _, loss, parts = result
      return jax.tree.map(
        lambda x: jnp.zeros((1, *x.shape), x.dtype), (params, loss, parts)
      )

    return jax.shard_map(
      local, in_specs=(self.used,), out_specs=self.apart, check_vma=False
    )(params)

  def gather(self, params: Params) -> Params:
    """Parameters as micro-batches use them."""
    return jax.tree.map(lax.with_sharding_constraint, params, self.used)

  def on_each_device(self, add: Callable[..., Result]) -> Callable[..., Result]:
    """The same, for a device's own rows and results."""

    def local(total: Result, *arguments: Any) -> Result:
      total = jax.tree.map(lambda x: x[0], total)
      with nn.logical_axis_rules(()):  # There is nothing to lay out.
        return jax.tree.map(lambda x: x[None], add(total, *arguments))

    rows = P(self.rows)
    return jax.shard_map(
      local,
      in_specs=(self.apart, self.used, rows, rows, P()),
      out_specs=self.apart,
      check_vma=False,  # Gradients of whole parameters are not to be summed.
    )

  def reduce(self, total: Result) -> Result:
    """Sums over the leading axes; gradients lie where their parameters do."""

    def add_up(x: Array, used: P, stored: P) -> Array:
      x, axes = x[0], self._summed(used)
      for dimension, axis in enumerate(stored):
        if axis in axes:
          x = lax.psum_scatter(x, axis, scatter_dimension=dimension, tiled=True)
      return lax.psum(x, tuple(axis for axis in axes if axis not in stored))

    def local(total: Result) -> Result:
      grads, *others = total
      grads = jax.tree.map(add_up, grads, self.used, self.stored)
      loss, parts = jax.tree.map(lambda x: lax.psum(x[0], self.rows), others)
      return grads, loss, parts

    return jax.shard_map(
      local, in_specs=(self.apart,), out_specs=(self.stored, P(), P())
    )(total)


def _spread(student: nn.Module, params: Params, rows: int) -> _Spread | None:
  """None where the layout is left to the compiler, or there is one device.

  That is so with work split inside of layers, rows that do not divide, and
  parameters too large to be whole on a device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size == 1 or not mesh.are_all_axes_auto:
    return None
  axes = sharding.axes("batch")
  ways = math.prod(mesh.shape[axis] for axis in axes)
  if ways < mesh.size or rows % ways or _size(params) > _GATHERED:
    return None
  with nn.logical_axis_rules(()):
    boxed = abstract_params(student)
  stored = jax.tree.map(
    lambda layout: layout.spec, sharding.param_shardings(boxed, mesh)
  )
  used = jax.tree.map_with_path(
    lambda path, spec: spec if _is_table(path) else P(), stored
  )
  return _Spread(axes, stored, used)


def _gather(params: Params) -> Params:
  """All of a frozen network but its word table, if a device has room."""
  if _size(params) > _GATHERED:
    return params
  return jax.tree.map_with_path(
    lambda path, x: (
      x if _is_table(path) else lax.with_sharding_constraint(x, P())
    ),
    params,
  )


def _size(params: Params) -> int:
  """Bytes of what is gathered."""
  leaves = jax.tree.leaves_with_path(params)
  return sum(x.nbytes for path, x in leaves if not _is_table(path))


def _is_table(path: tuple[Any, ...]) -> bool:
  names = [key.key for key in path]
  return names[-2:] == ["word", "embedding"]
