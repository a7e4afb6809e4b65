"""The mesh of devices, and the one table of how arrays are sharded over it.

Mesh axes: `data` holds replicas, `fsdp` also splits parameters and optimizer
state, `tensor` splits the work inside a layer. Models name *logical* axes
only; `RULES` translates them, in the notation of flax.linen.spmd.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from time_jax.core.arrays import Batch, make_batch
from time_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
RULES = (
  ("batch", ("data", "fsdp")),
  ("length", None),
  ("hidden", None),  # activations between blocks
  ("embed", "fsdp"),  # the same dimension in parameters
  ("heads", "tensor"),
  ("mlp", "tensor"),
  ("vocab", None),
  ("positions", None),
  ("token_types", None),
  ("vectors", None),  # embeddings narrower than the network
  ("taps", None),  # of a convolution
  ("layers", None),
)


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Arranges devices in a mesh; one of its three axes may be -1.

  Args:
    data: size of the `data` axis; -1: as many as the other axes leave.
    fsdp: size of the `fsdp` axis, or -1.
    tensor: size of the `tensor` axis, or -1; it gets neighbouring devices,
      which have the fastest links.
    devices: devices to arrange; None: those of all processes.

  Returns:
    The mesh, with the axes `AXES`.

  Raises:
    UserError: the product of the sizes is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes, count = [data, fsdp, tensor], len(devices)
  known = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) == 1 and known > 0 and count % known == 0:
    sizes[sizes.index(-1)] = count // known
  if math.prod(sizes) != count or min(sizes) < 1:
    raise UserError(
      f"mesh data={data} fsdp={fsdp} tensor={tensor} does not fit "
      f"{count} device(s); the product must be {count} (-1 fills one axis)."
    )
  # Auto: the compiler spreads the shardings stated here over the program.
  return jax.make_mesh(
    tuple(sizes), AXES, (AxisType.Auto,) * len(AXES), devices=devices
  )


def axes(name: str) -> tuple[str, ...]:
  """Returns the mesh axes of a logical axis, see `RULES`."""
  mesh_axes = dict(RULES)[name]
  return (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()


def automatic_mesh() -> AbstractMesh | None:
  """Returns the open mesh, if the compiler spreads the program over it.

  None on a single device, and inside `jax.shard_map` or `jax.pmap`, where the
  program is that of one device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if mesh.size > 1 and mesh.are_all_axes_auto else None


def split_evenly(
  mesh: Mesh | AbstractMesh, name: str, size: int
) -> tuple[Any, int]:
  """Returns how a dimension is split over the mesh.

  Args:
    mesh: the devices.
    name: logical axis of the dimension.
    size: size of the dimension.

  Returns:
    Mesh axes, for a PartitionSpec, and the number of parts; (None, 1) where
    parts would not be of one size.
  """
  ways = math.prod(mesh.shape[axis] for axis in axes(name))
  return (dict(RULES)[name], ways) if size % ways == 0 else (None, 1)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns how a batch is sharded: every device holds whole rows."""
  return NamedSharding(mesh, P(("data", "fsdp")))


def batch_ways(mesh: Mesh | AbstractMesh) -> int:
  """Returns the number of parts into which the rows of a batch are split."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def row_numbers(count: int) -> Int[Array, " B"]:
  """Returns the indices, in the global batch, of the rows that a model sees.

  Args:
    count: number of the rows. Under `jax.shard_map` over the axes of rows these
      are the rows of one device, which need not begin at 0.
  """
  rows = jnp.arange(count)
  manual = jax.sharding.get_abstract_mesh().manual_axes
  if set(axes("batch")) <= set(manual):
    rows += jax.lax.axis_index(axes("batch")) * count
  return rows


def param_shardings(boxed: Any, mesh: Mesh | AbstractMesh) -> Any:
  """Returns the shardings of a parameter tree, from its logical axes.

  Args:
    boxed: abstract or real parameters as `family.init_params` makes them, or a
      tree that contains such, as an optimizer's state does. Leaves without
      logical axes are replicated.
    mesh: the devices.

  Returns:
    The same tree of NamedSharding. A mesh axis that does not divide its
    dimension is dropped there: 250 002 rows are not split over 4.
  """

  def on_leaf(leaf: Any) -> Any:
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return NamedSharding(mesh, P())
    spec = nn.logical_to_mesh_axes(leaf.names, RULES) or P()
    # A box may hold a placeholder instead of an array: frozen parameters have
    # no moments.
    return jax.tree.map(functools.partial(_fit, mesh, spec), leaf.value)

  return jax.tree.map(
    on_leaf, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def abstract(boxed: Any, mesh: Mesh) -> Any:
  """Returns a tree of ShapeDtypeStruct with shardings, as restoring needs it.

  Args:
    boxed: see `param_shardings`.
    mesh: the devices.
  """
  return jax.tree.map(
    lambda leaf, layout: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=layout
    ),
    nn.meta.unbox(boxed),
    param_shardings(boxed, mesh),
  )


def _fit(mesh: Mesh | AbstractMesh, spec: P, leaf: Any) -> NamedSharding:
  """Drops the mesh axes that do not divide their dimension of the leaf."""
  axes = [
    axis if axis and size % mesh.shape[axis] == 0 else None
    for size, axis in zip(leaf.shape, spec, strict=True)
  ]
  return NamedSharding(mesh, P(*axes))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Puts a host array, the same in every process, on the devices."""
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index]
  )


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Copies every array to all devices of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, P()))


def local_rows(mesh: Mesh, global_batch_size: int) -> list[int]:
  """Returns the rows of a global batch that this process's devices hold.

  Processes hold the same rows where the `tensor` axis reaches across them.

  Args:
    mesh: the devices.
    global_batch_size: rows of all processes.

  Returns:
    Indices in the global batch, ascending.
  """
  shards = batch_sharding(mesh).addressable_devices_indices_map(
    (global_batch_size,)
  )
  everyone = range(global_batch_size)
  held = {
    row for index in shards.values() for row in everyone[(index or ())[0]]
  }
  return sorted(held)


def global_batch(
  tokens: np.ndarray,
  segment_ids: np.ndarray,
  mesh: Mesh,
  global_batch_size: int,
) -> Batch:
  """Joins the rows of all processes to one global batch on the devices.

  Args:
    tokens: [b, T], the rows of `local_rows` in that order.
    segment_ids: [b, T], likewise; 0 is padding.
    mesh: the devices.
    global_batch_size: rows of all processes, B.

  Returns:
    The batch [B, T], with positions.
  """
  return jax.tree.map(
    lambda x: join_rows(x, mesh, global_batch_size),
    make_batch(tokens, segment_ids),
  )


def join_rows(
  local: np.ndarray, mesh: Mesh, global_batch_size: int
) -> jax.Array:
  """Joins what all processes have of a batch to one array on the devices.

  Args:
    local: [b, ...], of the rows of `local_rows` in that order.
    mesh: the devices.
    global_batch_size: rows of all processes, B.

  Returns:
    An array [B, ...].
  """
  held = local_rows(mesh, global_batch_size)
  place = {row: i for i, row in enumerate(held)}

  def shard(index: tuple[slice, ...] | None) -> np.ndarray:
    start, stop, _ = (index or ())[0].indices(global_batch_size)
    return local[place[start] : place[stop - 1] + 1]

  shape = (global_batch_size, *local.shape[1:])
  return jax.make_array_from_callback(shape, batch_sharding(mesh), shard)


def held_rows(array: jax.Array) -> np.ndarray:
  """Returns what this process's devices hold of a batch, on the host.

  Args:
    array: [B, ...], as `join_rows` lays it out.

  Returns:
    [b, ...], of the rows of `local_rows` in that order.
  """
  shards = {
    shard.index[0].indices(len(array))[0]: shard
    for shard in array.addressable_shards
  }
  return np.concatenate([shards[row].data for row in sorted(shards)])


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
  """Has logical constraints in models refer to this mesh inside the block."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield
