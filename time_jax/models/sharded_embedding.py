"""Looking up rows of a table whose columns are spread over devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from time_jax.parallel import sharding


def lookup(
  table: Float[Array | np.ndarray, "V d"],
  ids: Int[Array | np.ndarray, "B ..."],
  features: int,
  dtype: DTypeLike,
) -> Float[Array, "B ... D"]:
  """Rows of a table, cast after they are looked up.

  On a mesh each device takes its own columns, for the rows of all devices that
  share a copy of the table, and an exchange gives each whole rows of its own
  part of the batch. The gradient goes the same way back and is summed in the
  table's dtype. Left to itself the compiler may gather whole tables.

  Args:
    table: V rows; in a program for one device perhaps its own columns alone.
    ids: below V.
    features: D, columns of the table.
    dtype: of what is looked up.
  """
  mesh = jax.sharding.get_abstract_mesh()
  table, ids = jnp.asarray(table), jnp.asarray(ids)
  rows, (columns,) = sharding.axes("batch"), sharding.axes("embed")
  if table.shape[1] < features:
    return _exchange(table, ids, dtype=dtype, axis=columns)
  if mesh.size == 1 or not mesh.are_all_axes_auto:
    return _take(table, ids, dtype)
  rows_left = ids.shape[0] % math.prod(mesh.shape[axis] for axis in rows)
  if rows_left or features % mesh.shape[columns]:
    return _take(table, ids, dtype)
  return jax.shard_map(
    functools.partial(_exchange, dtype=dtype, axis=columns),
    in_specs=(P(None, columns), P(rows)),
    out_specs=P(rows),
  )(table, ids)


def _exchange(
  table: Float[Array, "V d"],
  ids: Int[Array, "b ..."],
  *,
  dtype: DTypeLike,
  axis: str,
) -> Float[Array, "b ... D"]:
  """What one device does, which holds some columns and some rows."""
  x = _take(table, lax.all_gather(ids, axis, tiled=True), dtype)
  return lax.all_to_all(x, axis, split_axis=0, concat_axis=ids.ndim, tiled=True)


def _take(table: Array, ids: Array, dtype: DTypeLike) -> Array:
  return jnp.take(table, ids, axis=0).astype(dtype)
