"""Reads the tensors of a model's files as parameters on a mesh's devices."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from time_jax.core.display import first_of
from time_jax.core.errors import UserError
from time_jax.hf.weights import FLOATS, Index, Weights
from time_jax.models.family import KeyTable, Params
from time_jax.parallel import sharding

_PROBLEMS_SHOWN = 20

Path = tuple[str, ...]


def read_params(
  weights: Weights,
  table: KeyTable,
  boxed: Params,
  num_layers: int,
  mesh: Mesh,
  dtype: DTypeLike,
) -> Params:
  """Reads every parameter of a tree, or says all that is wrong.

  Args:
    weights: the tensors, under any of the table's prefixes.
    table: maps our paths to the files' names.
    boxed: abstract parameters with logical axes.
    num_layers: blocks of the encoder.
    mesh: the devices to lay the weights on.
    dtype: what the weights are cast to, on the host.

  Raises:
    UserError: tensors are missing, or of another shape or dtype.
  """
  sources = find_tensors(weights, table, boxed, num_layers)
  shapes: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
  shardings: Any = flax.traverse_util.flatten_dict(
    sharding.param_shardings(boxed, mesh)
  )
  params = {}
  for path, names in sources.items():
    read = functools.partial(_read_part, weights, path, names, dtype)
    array = _place(shapes[path].shape, shardings[path], read)
    # A copy on the host lives until it has reached the devices.
    params[path] = jax.block_until_ready(array)
  return flax.traverse_util.unflatten_dict(params)


def find_tensors(
  weights: Weights, table: KeyTable, boxed: Params, num_layers: int
) -> dict[Path, list[str]]:
  """Finds the tensors that every parameter is read from.

  Args:
    weights: as for `read_params`.
    table: as for `read_params`.
    boxed: as for `read_params`.
    num_layers: as for `read_params`.

  Returns:
    Path of the parameter -> names in the files, one for each block of a
    stacked parameter.

  Raises:
    UserError: tensors are missing, or of another shape or dtype.
  """
  shapes: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
  names = {
    path: table.names(path, leaf.shape, num_layers)
    for path, leaf in shapes.items()
  }
  rename = _renaming(
    weights, table, [n for some in names.values() for n in some]
  )
  sources = {path: list(map(rename, some)) for path, some in names.items()}
  expected = {
    name: _shape_in_file(path, shapes[path].shape)
    for path, some in sources.items()
    for name in some
  }
  check_tensors(weights, expected)
  logging.info(
    "%s: %d tensors used, not needed: %s",
    weights.folder,
    len(expected),
    sorted(set(weights) - set(expected)),
  )
  return sources


def check_tensors(
  weights: Weights, expected: Mapping[str, tuple[int, ...]]
) -> None:
  """Raises UserError, which lists every problem, unless weights are usable.

  Args:
    weights: the tensors.
    expected: name -> shape of every tensor that is needed.
  """
  problems = []
  for name, shape in expected.items():
    if name not in weights:
      file = weights.expected_file(name)
      where = f" from {file}, where the index has it" if file else ""
      problems.append(f"{name} is missing{where}")
      continue
    info = weights.info(name)
    if info.shape != shape:
      problems.append(f"{name} has shape {info.shape}, expected {shape}")
    # Whole numbers are quantised weights, which mean nothing as they are.
    if info.dtype not in FLOATS:
      problems.append(
        f"{name} is {info.dtype}, expected one of {', '.join(FLOATS)}"
      )
  if problems:
    shown = first_of(problems, _PROBLEMS_SHOWN)
    raise UserError(
      f"{weights.folder}: the weights do not fit config.json: {shown}."
    )


def _shape_in_file(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  shape = shape[1:] if path[0] == "layers" else shape
  return shape[::-1] if path[-1] == "kernel" else shape


def _renaming(
  weights: Weights, table: KeyTable, names: Sequence[str]
) -> Callable[[str], str]:
  """Returns a function from names in the table to names in these files.

  They differ by the prefix, and by the aliases of the table.
  """

  def rename(prefix: str, name: str) -> str:
    name = prefix + name
    for new, old in table.aliases.items():
      alias = name.replace(new, old)
      if name not in weights and alias in weights:
        return alias
    return name

  def num_known(prefix: str) -> int:
    return sum(rename(prefix, name) in weights for name in names)

  return functools.partial(rename, max(table.prefixes, key=num_known))


def _place(
  shape: tuple[int, ...],
  layout: NamedSharding,
  read: Callable[[Index], np.ndarray],
) -> jax.Array:
  """Makes an array of which this process reads its own devices' parts only."""

  @functools.cache  # Devices that hold the same part share one reading.
  def part(*bounds: tuple[int, int]) -> np.ndarray:
    return read(tuple(slice(*bound) for bound in bounds))

  def shard(index: Index | None) -> np.ndarray:
    pairs = zip(index or (), shape, strict=True)
    return part(*(s.indices(size)[:2] for s, size in pairs))

  return jax.make_array_from_callback(shape, layout, shard)


def _read_part(
  weights: Weights,
  path: Path,
  names: Sequence[str],
  dtype: DTypeLike,
  part: Index,
) -> np.ndarray:
  """Reads part of a parameter: stacked over blocks, in Flax's orientation."""
  array = _empty([s.stop - s.start for s in part], dtype)
  targets, inner = [array], part
  if path[0] == "layers":
    targets, inner, names = list(array), part[1:], names[part[0]]
  for target, name in zip(targets, names, strict=True):
    if path[-1] == "kernel":
      weights.read_into(target.T, name, inner[::-1])
    else:
      weights.read_into(target, name, inner)
  return array


def _empty(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
  """Returns an array that JAX takes over on a CPU, rather than copying it."""
  size, alignment = math.prod(shape) * np.dtype(dtype).itemsize, 64
  raw = np.empty(size + alignment, np.uint8)
  start = -raw.ctypes.data % alignment
  return raw[start : start + size].view(dtype).reshape(shape)
