"""Embedding lookup in a table whose columns are sharded over devices."""

import functools

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
  """Returns a row of the table for every id, cast after the lookup.

  On a mesh the devices of the axis that the columns are split over share a copy
  of the table. Each looks up its own columns for the ids of all of them, and an
  all-to-all exchange then gives each whole rows for its own ids. The gradient
  goes the same way back and is summed in the table's dtype. Left to itself the
  compiler may gather whole tables.

  Args:
    table: V rows of D columns; inside `jax.shard_map` perhaps only the columns
      of one device.
    ids: token ids, below V.
    features: D.
    dtype: of the rows that are returned.
  """
  mesh = sharding.automatic_mesh()
  table, ids = jnp.asarray(table), jnp.asarray(ids)
  rows, (columns,) = sharding.axes("batch"), sharding.axes("embed")
  if table.shape[1] < features:
    return _exchange(table, ids, dtype=dtype, axis=columns)
  if (
    mesh is None
    or sharding.split_evenly(mesh, "batch", len(ids))[0] is None
    or features % mesh.shape[columns]
  ):
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
  """Looks up on one device, which holds some columns and some ids."""
  x = _take(table, lax.all_gather(ids, axis, tiled=True), dtype)
  return lax.all_to_all(x, axis, split_axis=0, concat_axis=ids.ndim, tiled=True)


def _take(table: Array, ids: Array, dtype: DTypeLike) -> Array:
  return jnp.take(table, ids, axis=0).astype(dtype)
