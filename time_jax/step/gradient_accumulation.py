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
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Targets
from time_jax.models import family
from time_jax.models.family import Params, Path
from time_jax.parallel import sharding
from time_jax.step.objective import Objective, targets_of

# Bytes of one network's parameters that a device holds whole during a step.
# Larger networks are left to the compiler, which gathers layer by layer in each
# micro-batch.
_MAX_WHOLE = 2**30

# Gradient, loss, and its parts by name.
Result = tuple[Params, Array, dict[str, Array]]


def gradients(
  params: Mapping[str, Params],
  teacher_params: Params,
  batch: Batch,
  objectives: Mapping[str, Objective],
  documents: Float[Array, ""],
  rngs: Mapping[str, Array],
  accumulation: int,
  targets: Targets | None = None,
) -> dict[str, Result]:
  """Computes the loss of a batch and its gradient, for each student.

  The teacher is asked once in every micro-batch, whoever learns of it.

  Args:
    params: parameters of each student, by name.
    teacher_params: parameters of the teacher, see `Objective.targets`.
    batch: the rows.
    objectives: loss of each student; all of one teacher.
    documents: number of documents in the global batch.
    rngs: random key of each student, for dropout.
    accumulation: number of micro-batches that the rows are split into.
    targets: what is learnt of the teacher for the rows, where that is known;
      None: it is asked.

  Returns:
    The gradient, the loss and its parts of each student, each summed over the
    micro-batches.
  """

  def ask(
    teacher_params: Params, rows: Batch, index: int | Array
  ) -> dict[str, tuple[Targets, Array]]:
    """Returns each student's targets, and its key of the micro-batch."""
    keys = {n: jax.random.fold_in(rngs[n], index) for n in objectives}
    known = jax.tree.map(lambda x: _rows_of(x, index, accumulation), targets)
    with jax.named_scope("teacher"):
      asked = targets_of(objectives, teacher_params, rows, known)
    return {name: (asked[name], keys[name]) for name in objectives}

  learn = {
    name: functools.partial(_learn, objective, documents)
    for name, objective in objectives.items()
  }

  def learn_once(rows: Batch) -> dict[str, Result]:
    asked = ask(teacher_params, rows, 0)
    return {n: learn[n](params[n], rows, *asked[n]) for n in objectives}

  if accumulation == 1:
    return learn_once(batch)

  micro_batches = split_rows(batch, accumulation), jnp.arange(accumulation)
  first = jax.tree.map(lambda x: x[0], micro_batches[0])
  results = jax.eval_shape(learn_once, first)
  plans = plan_exchanges(objectives, params, len(first.tokens))
  teacher_params = lay_out_teacher(teacher_params, objectives, plans)
  whole = {name: plan.gather(params[name]) for name, plan in plans.items()}
  zeros = {n: plan.zeros(whole[n], results[n]) for n, plan in plans.items()}
  add = {
    name: plan.on_each_device(functools.partial(_add, learn[name]))
    for name, plan in plans.items()
  }

  def step(
    totals: dict[str, Result], micro_batch: tuple[Batch, Array]
  ) -> tuple[dict[str, Result], None]:
    rows, index = micro_batch
    asked = ask(teacher_params, rows, index)
    return {
      name: add[name](total, whole[name], rows, *asked[name])
      for name, total in totals.items()
    }, None

  totals, _ = lax.scan(step, zeros, micro_batches)
  return {name: plan.reduce(totals[name]) for name, plan in plans.items()}


def _learn(
  objective: Objective,
  documents: Array,
  params: Params,
  rows: Batch,
  targets: Targets,
  rng: Array,
) -> Result:
  """Returns the gradient and the loss that some rows contribute."""
  with jax.named_scope("student"):
    (loss, parts), grads = jax.value_and_grad(objective.loss, has_aux=True)(
      params, rows, targets, documents, rng
    )
  return grads, loss, parts


def _add(
  learn: Callable[..., Result], total: Result, *arguments: Any
) -> Result:
  return jax.tree.map(jnp.add, total, learn(*arguments))


def split_rows(batch: Batch, count: int) -> Batch:
  """Gives row i to micro-batch i % count.

  Each device then finds its rows of every micro-batch among those it holds.

  Args:
    batch: the rows.
    count: number of micro-batches, which becomes the first axis.
  """
  return jax.tree.map(
    lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch
  )


def _rows_of(x: Array, index: int | Array, count: int) -> Array:
  """Returns what `split_rows` gives to a micro-batch; copies no other rows."""
  return x.reshape(-1, count, *x.shape[1:])[:, index]


class _NoExchange:
  """Leaves the layout of a student to the compiler, in place of `_Exchange`."""

  def gather(self, params: Params) -> Params:
    """Returns the parameters."""
    return params

  def zeros(self, params: Params, result: Result) -> Result:
    """Returns the sums before the first micro-batch."""
    del params
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)

  def on_each_device(self, add: Callable[..., Result]) -> Callable[..., Result]:
    """Returns `add`."""
    return add

  def reduce(self, total: Result) -> Result:
    """Returns the sums."""
    return total


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


Plans = dict[str, _Exchange | _NoExchange]


def plan_exchanges(
  objectives: Mapping[str, Objective], params: Mapping[str, Params], rows: int
) -> Plans:
  """Plans what devices exchange for each student.

  Args:
    objectives: loss of each student, by name.
    params: parameters of each student.
    rows: rows of a micro-batch.
  """
  return {
    name: _plan_exchange(objective.student, params[name], rows)
    for name, objective in objectives.items()
  }


def lay_out_teacher(
  teacher_params: Params, objectives: Mapping[str, Objective], plans: Plans
) -> Params:
  """Lays the teacher's parameters out as micro-batches use them.

  Args:
    teacher_params: parameters of the teacher.
    objectives: loss of each student; all of one teacher.
    plans: result of `plan_exchanges`.
  """
  if not any(isinstance(plan, _Exchange) for plan in plans.values()):
    return teacher_params
  teacher = next(iter(objectives.values())).teacher
  return gather_teacher(teacher_params, teacher.tables)


def _plan_exchange(
  student: nn.Module, params: Params, rows: int
) -> _Exchange | _NoExchange:
  """Plans the exchange of a step with `rows` rows in a micro-batch.

  The compiler is to lay the step out on one device, where work is split inside
  layers, where rows do not divide by the devices, and where parameters are too
  large to be whole on a device.
  """
  mesh = sharding.automatic_mesh()
  if mesh is None or sharding.split_evenly(mesh, "batch", rows)[1] < mesh.size:
    return _NoExchange()
  with nn.logical_axis_rules(()):
    boxed = family.abstract_params(student)
  tables = family.vocabulary_tables(boxed)
  if _whole_bytes(params, tables) > _MAX_WHOLE:
    return _NoExchange()
  stored = jax.tree.map(
    lambda layout: layout.spec, sharding.param_shardings(boxed, mesh)
  )
  used = jax.tree.map_with_path(
    lambda path, spec: spec if family.names_of(path) in tables else P(), stored
  )
  return _Exchange(sharding.axes("batch"), stored, used)


def gather_teacher(params: Params, tables: frozenset[Path]) -> Params:
  """Makes a frozen network whole on every device, if there is room.

  Args:
    params: its parameters.
    tables: those that stay as they are, see `Teacher.tables`.
  """
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
