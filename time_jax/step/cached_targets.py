"""The teacher's projections of a batch, where some rows have theirs already.

What was kept of earlier steps comes with the batch, and the teacher is asked
for the other rows alone, not at all where no row is missing. It is asked for as
many rows at a time as without a cache: with other sizes of its matrices it may
round otherwise. The program is the same whatever is missing, and all devices
ask equally often.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int

from time_jax.core.arrays import Batch, Targets
from time_jax.models.family import Params, Teacher
from time_jax.parallel import sharding
from time_jax.step.gradient_accumulation import gather_teacher


def make_fill(teacher: Teacher, mesh: Mesh, accumulation: int) -> Any:
  """Returns `fill`, compiled with jax.jit for the devices of a mesh.

  Args:
    teacher: the frozen network.
    mesh: the devices; to be in use, see `sharding.use_mesh`, in each call.
    accumulation: see `fill`.

  Returns:
    A function of the teacher's parameters, a global batch, its cached targets,
    which are donated, and its hits.
  """
  rows = sharding.batch_sharding(mesh)
  return jax.jit(
    functools.partial(fill, teacher, accumulation),
    in_shardings=(None, rows, rows, rows),
    out_shardings=rows,
    donate_argnums=2,
  )


def fill(
  teacher: Teacher,
  accumulation: int,
  teacher_params: Params,
  batch: Batch,
  cached: Targets,
  hits: Bool[Array, " B"],
) -> Targets:
  """Computes the targets that are missing.

  Args:
    teacher: the frozen network.
    accumulation: number of micro-batches of a step. The teacher is asked for
      as many rows at a time as are in one of them.
    teacher_params: its parameters.
    batch: the rows.
    cached: targets [B, T, D] of the teacher's layers, in the dtype that they
      are kept in. Rows that are missing may hold anything.
    hits: which rows of `cached` are to stay as they are.

  Returns:
    The targets of all rows, in the same dtype.
  """
  mesh, ways = sharding.automatic_mesh(), 1
  if mesh is not None:
    ways = sharding.batch_ways(mesh)
    if ways == mesh.size:
      teacher_params = gather_teacher(teacher_params, teacher.tables)

  def apart(x: Array) -> Array:
    """Gives the rows of each device an axis of their own: [ways, b, ...]."""
    x = x.reshape(ways, -1, *x.shape[1:])
    return x if mesh is None else _on_its_device(x)

  def together(x: Array) -> Array:
    x = x.reshape(-1, *x.shape[2:])
    return x if mesh is None else _on_its_device(x)

  there = apart(hits)
  rows = there.shape[1]
  size = rows // accumulation
  order = jnp.argsort(there, axis=1, stable=True)  # Those that miss, first.
  most = jnp.max(jnp.sum(~there, axis=1))

  def ask(carry: tuple[Array, Any]) -> tuple[Array, Any]:
    # Where one turn asks for all rows, what it computes would else not depend
    # on the loop: the compiler would take it out, and compute it in any case.
    start, turns = lax.optimization_barrier((carry[0], order))
    targets = carry[1]
    places = lax.dynamic_slice_in_dim(turns, start, size, axis=1)
    asked = jax.tree.map(lambda x: together(_take(apart(x), places)), batch)
    with jax.named_scope("teacher"):
      found = teacher.targets(teacher_params, asked)
    # A row that was there gets no place, so that it stays as it is.
    free = jnp.where(_take(there, places), rows, places)
    targets = jax.tree.map(
      lambda x, new: _put(x, free, apart(new.astype(x.dtype))), targets, found
    )
    return start + size, targets

  start = jnp.zeros((), jnp.int32)
  _, targets = lax.while_loop(
    lambda carry: carry[0] < most, ask, (start, jax.tree.map(apart, cached))
  )
  return jax.tree.map(together, targets)


def _on_its_device(x: Array) -> Array:
  return lax.with_sharding_constraint(x, P(sharding.axes("batch")))


@jax.vmap
def _take(x: Array, places: Int[Array, " c"]) -> Array:
  return x[places]


@jax.vmap
def _put(x: Array, places: Int[Array, " c"], new: Array) -> Array:
  return x.at[places].set(new, mode="drop")
