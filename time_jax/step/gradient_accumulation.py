"""The gradient of a batch, accumulated over micro-batches.

Left to itself the compiler gathers split parameters and reduces gradients in
every micro-batch. Where each device holds whole rows and has room for whole
parameters, a step exchanges them once instead:

  before the first micro-batch   parameters are gathered
  in every micro-batch           each device adds the gradients of its own rows
                                 to its own sums
  after the last micro-batch     the sums are reduced over the devices

Embedding tables of the vocabulary are the exception. They stay split by columns
all the time, and `models.sharded_embedding` exchanges the rows that are used.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.models import family
from time_jax.models.family import Params, Path
from time_jax.parallel import sharding
from time_jax.step.objective import Objective

# Bytes of parameters that a device holds whole during a step. Larger networks
# are left to the compiler, which gathers layer by layer in each micro-batch.
_MAX_WHOLE = 2**30

# Gradient, loss, and the part of the loss that each relation has.
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
  """Computes the loss of a batch and its gradient.

  Args:
    params: parameters of the student.
    teacher_params: parameters of the teacher, see `Objective.targets`.
    batch: the rows.
    objective: the relation loss.
    documents: number of documents in the global batch.
    rng: random key for dropout.
    accumulation: number of micro-batches that the rows are split into.

  Returns:
    The gradient, the loss and its parts, each summed over the micro-batches.
  """

  def student(params: Params, rows: Batch, targets: Qkv, rng: Array) -> Result:
    with jax.named_scope("student"):
      (loss, parts), grads = jax.value_and_grad(objective.loss, has_aux=True)(
        params, rows, targets, documents, rng
      )
    return grads, loss, parts

  def targets(teacher_params: Params, rows: Batch) -> Qkv:
    with jax.named_scope("teacher"):
      return objective.targets(teacher_params, rows)

  if accumulation == 1:
    first = jax.random.fold_in(rng, 0)
    return student(params, batch, targets(teacher_params, batch), first)

  split = functools.partial(_split_rows, count=accumulation)
  micro_batches = jax.tree.map(split, batch), jnp.arange(accumulation)

  def add(total: Result, *arguments: Any) -> Result:
    return jax.tree.map(jnp.add, total, student(*arguments))

  def accumulate(
    add: Callable[..., Result],
    params: Params,
    teacher_params: Params,
    zeros: Result,
  ) -> Result:
    def step(
      total: Result, micro_batch: tuple[Batch, Array]
    ) -> tuple[Result, None]:
      rows, index = micro_batch
      key = jax.random.fold_in(rng, index)
      return add(total, params, rows, targets(teacher_params, rows), key), None

    return lax.scan(step, zeros, micro_batches)[0]

  rows = jax.tree.map(lambda x: x[0], micro_batches[0])
  result = jax.eval_shape(
    lambda: student(params, rows, targets(teacher_params, rows), rng)
  )
  exchange = _plan_exchange(objective.student, params, len(rows.tokens))
  if exchange is None:
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)
    return accumulate(add, params, teacher_params, zeros)
  teacher_params = _gather_teacher(teacher_params, objective.teacher.tables)
  params = exchange.gather(params)
  zeros = exchange.zeros(params, result)
  add_apart = exchange.on_each_device(add)
  return exchange.reduce(accumulate(add_apart, params, teacher_params, zeros))


def _split_rows(x: Array, count: int) -> Array:
  """Gives row i to micro-batch i % count.

  Each device then finds its rows of every micro-batch among those it holds.
  """
  return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


@dataclasses.dataclass(frozen=True)
class _Exchange:
  """What devices exchange before and after the micro-batches of a step.

  Between the two every device keeps its own sums: a `Result` whose arrays have
  a leading axis over the devices.

  Attributes:
    row_axes: mesh axes that the rows of a batch are split over.
    stored: PartitionSpec of every parameter and its gradient between steps.
    used: PartitionSpec of every parameter during the micro-batches.
  """

  row_axes: tuple[str, ...]
  stored: Any
  used: Any

  def gather(self, params: Params) -> Params:
    """Lays parameters out as micro-batches use them."""
    return jax.tree.map(lax.with_sharding_constraint, params, self.used)

  @property
  def sums(self) -> tuple[Any, P, P]:
    """PartitionSpecs of the sums that devices keep to themselves."""
    rows = P(self.row_axes)
    grads = jax.tree.map(lambda used: P(self._unsummed(used), *used), self.used)
    return grads, rows, rows

  def _unsummed(self, used: P) -> tuple[str, ...]:
    """Returns the mesh axes that a parameter's gradient is to be summed over.

    The gradient of a table that is split over an axis has been summed over it
    by the exchange of rows.
    """
    return tuple(axis for axis in self.row_axes if axis not in used)

  def zeros(self, params: Params, result: Result) -> Result:
    """Returns the sums before the first micro-batch.

    Args:
      params: parameters as `gather` returns them.
      result: shapes and dtypes of a micro-batch's loss and parts.
    """

    def local(params: Params) -> Result:
      _, loss, parts = result
      return jax.tree.map(
        lambda x: jnp.zeros((1, *x.shape), x.dtype), (params, loss, parts)
      )

    return jax.shard_map(
      local, in_specs=(self.used,), out_specs=self.sums, check_vma=False
    )(params)

  def on_each_device(self, add: Callable[..., Result]) -> Callable[..., Result]:
    """Makes `add(total, params, rows, targets, rng)` local to each device."""

    def local(total: Result, *arguments: Any) -> Result:
      total = jax.tree.map(lambda x: x[0], total)
      with nn.logical_axis_rules(()):  # There is no mesh left to lay out on.
        return jax.tree.map(lambda x: x[None], add(total, *arguments))

    rows = P(self.row_axes)
    return jax.shard_map(
      local,
      in_specs=(self.sums, self.used, rows, rows, P()),
      out_specs=self.sums,
      # With the check JAX would sum the gradients of whole parameters here.
      check_vma=False,
    )

  def reduce(self, total: Result) -> Result:
    """Adds the devices' sums and lays gradients out like stored parameters."""

    def reduce_gradient(x: Array, used: P, stored: P) -> Array:
      x, axes = x[0], self._unsummed(used)
      for dimension, axis in enumerate(stored):
        if axis in axes:
          x = lax.psum_scatter(x, axis, scatter_dimension=dimension, tiled=True)
      return lax.psum(x, tuple(axis for axis in axes if axis not in stored))

    def local(total: Result) -> Result:
      grads, *others = total
      grads = jax.tree.map(reduce_gradient, grads, self.used, self.stored)
      loss, parts = jax.tree.map(
        lambda x: lax.psum(x[0], self.row_axes), others
      )
      return grads, loss, parts

    return jax.shard_map(
      local, in_specs=(self.sums,), out_specs=(self.stored, P(), P())
    )(total)


def _plan_exchange(
  student: nn.Module, params: Params, rows: int
) -> _Exchange | None:
  """Plans the exchange of a step with `rows` rows in a micro-batch.

  Returns:
    None where the compiler is to lay the step out: on one device, where work
    is split inside layers, where rows do not divide by the devices, and where
    parameters are too large to be whole on a device.
  """
  mesh = sharding.automatic_mesh()
  if mesh is None or sharding.split_evenly(mesh, "batch", rows)[1] < mesh.size:
    return None
  with nn.logical_axis_rules(()):
    boxed = family.abstract_params(student)
  tables = family.vocabulary_tables(boxed)
  if _whole_bytes(params, tables) > _MAX_WHOLE:
    return None
  stored = jax.tree.map(
    lambda layout: layout.spec, sharding.param_shardings(boxed, mesh)
  )
  used = jax.tree.map_with_path(
    lambda path, spec: spec if family.names_of(path) in tables else P(), stored
  )
  return _Exchange(sharding.axes("batch"), stored, used)


def _gather_teacher(params: Params, tables: frozenset[Path]) -> Params:
  """Makes a frozen network whole on every device, if there is room."""
  if _whole_bytes(params, tables) > _MAX_WHOLE:
    return params
  return jax.tree.map_with_path(
    lambda path, x: (
      x
      if family.names_of(path) in tables
      else lax.with_sharding_constraint(x, P())
    ),
    params,
  )


def _whole_bytes(params: Params, tables: frozenset[Path]) -> int:
  """Counts the bytes of all parameters but the vocabulary's tables."""
  leaves = jax.tree.leaves_with_path(params)
  return sum(
    x.nbytes for path, x in leaves if family.names_of(path) not in tables
  )
