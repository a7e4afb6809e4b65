"""Looking up rows of a table whose columns are spread over devices."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def lookup(
  table: Float[Array, "V D"],
  ids: Int[Array | np.ndarray, "B ..."],
  dtype: DTypeLike,
) -> Float[Array, "B ... D"]:
  """Rows of a table, cast after they are looked up.

  On a mesh each device takes its own columns, for the rows of all devices that
  share a copy of the table, and an exchange gives each whole rows of its own
  part of the batch. The gradient goes the same way back and is summed in the
  table's dtype. Left to itself the compiler may gather whole tables.

  Args:
    table: V rows.
    ids: below V.
    dtype: of what is looked up.
  """
  mesh = jax.sharding.get_abstract_mesh()
  (rows,) = nn.logical_to_mesh_axes(("batch",)) or (None,)
  (columns,) = nn.logical_to_mesh_axes(("embed",)) or (None,)
  if mesh.size == 1 or not mesh.are_all_axes_auto or not rows or not columns:
    return _take(table, ids, dtype)
  whole_rows = ids.shape[0] % math.prod(mesh.shape[axis] for axis in rows)
  if whole_rows or table.shape[1] % mesh.shape[columns]:
    return _take(table, ids, dtype)
  return jax.shard_map(
    functools.partial(_exchange, dtype=dtype, axis=columns),
    in_specs=(P(None, columns), P(rows)),
    out_specs=P(rows),
  )(table, jnp.asarray(ids))


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


def _take(table: Array, ids: Any, dtype: DTypeLike) -> Array:
  return jnp.take(table, ids, axis=0).astype(dtype)
