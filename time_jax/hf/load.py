"""Hugging Face folder -> encoder and parameters, straight to the devices."""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from time_jax.core.arrays import Batch, Qkv
from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.hf import files
from time_jax.hf.weights import FLOATS, Index, Weights
from time_jax.models import registry
from time_jax.models.family import (
  Family,
  KeyTable,
  Params,
  Teacher,
  abstract_params,
  init_params,
  vocabulary_tables,
)
from time_jax.parallel import sharding


def load_teacher(
  path: str,
  layer: int,
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  capture: str = "projections",
  overrides: Mapping[str, Any] | None = None,
  allow_pickle: bool = False,
) -> Teacher:
  """Loads a teacher up to the projections of one layer.

  Args:
    path: see `files.resolve`.
    layer: the distilled layer, 1-based. Blocks above it, and what follows
      the projections inside it, are neither read nor kept.
    dtype: of parameters and computation.
    mesh: the devices to lay the weights on.
    capture: "projections", or "post_rope" for what RoPE makes of them.
    overrides: keys of config.json that are to have other values.
    allow_pickle: see `files.weight_files`.

  Raises:
    UserError: the folder, its config or its tensors are not as expected.
  """
  folder = files.resolve(path, allow_pickle)
  family, config = read_config(folder, overrides)
  check_layer(layer, config.num_layers)
  encoder = family.encoder(config, layer, dtype)
  kept = _select(abstract_params(encoder), family.feeds_projections)
  with Weights(folder, allow_pickle) as weights:
    params = _read_params(weights, family.names, kept, layer, mesh, dtype)
  fingerprint = files.fingerprint(folder, allow_pickle)
  return _teacher(encoder, params, capture, fingerprint)


def check_teacher(
  folder: pathlib.Path, layer: int, allow_pickle: bool = False
) -> list[str]:
  """Reads the files' headers only.

  Returns:
    Names of the tensors that `load_teacher` would read.

  Raises:
    UserError: `load_teacher` would.
  """
  family, config = read_config(folder)
  check_layer(layer, config.num_layers)
  encoder = family.encoder(config, layer, "float32")
  kept = _select(abstract_params(encoder), family.feeds_projections)
  with Weights(folder, allow_pickle) as weights:
    sources = _find(weights, family.names, kept, layer)
  return [name for names in sources.values() for name in names]


def random_teacher(
  hf_config: Mapping[str, Any],
  layer: int,
  *,
  seed: int,
  dtype: DTypeLike,
  mesh: Mesh,
  capture: str = "projections",
) -> Teacher:
  """A teacher of random weights, for measuring speed and memory.

  Args:
    hf_config: the architecture, as a config.json would say it.
    layer: the distilled layer, 1-based.
    seed: of the weights.
    dtype: of parameters and computation.
    mesh: the devices to lay the weights on.
    capture: as for `load_teacher`.
  """
  family, encoder, kept = _describe(hf_config, layer, dtype)

  def fresh() -> Params:
    params = nn.meta.unbox(init_params(encoder, jax.random.key(seed)))
    params = _select(params, family.feeds_projections)
    return jax.tree.map(lambda x: x.astype(dtype), params)

  init = jax.jit(fresh, out_shardings=sharding.param_shardings(kept, mesh))
  return _teacher(encoder, init(), capture, f"random-{seed}")


def abstract_teacher(
  hf_config: Mapping[str, Any],
  layer: int,
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  capture: str = "projections",
) -> Teacher:
  """A teacher whose parameters are shapes, for compiling without weights.

  Args: as for `random_teacher`; the mesh may be of devices that are not here.
  """
  _, encoder, kept = _describe(hf_config, layer, dtype)
  params = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, dtype, sharding=leaf.sharding
    ),
    sharding.abstract(kept, mesh),
  )
  return _teacher(encoder, params, capture, "none")


def _describe(
  hf_config: Mapping[str, Any], layer: int, dtype: DTypeLike
) -> tuple[Family, nn.Module, Params]:
  """Family, encoder, and abstract parameters that feed the projections."""
  family, config = registry.parse_config(hf_config)
  check_layer(layer, config.num_layers)
  encoder = family.encoder(config, layer, dtype)
  kept = _select(abstract_params(encoder), family.feeds_projections)
  return family, encoder, kept


def load_encoder(
  folder: pathlib.Path,
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  overrides: Mapping[str, Any] | None = None,
  allow_pickle: bool = False,
) -> tuple[nn.Module, Params]:
  """Loads a complete encoder, every block whole (the pooler if it is there).

  Args:
    folder: a Hugging Face model folder.
    dtype: of parameters and computation.
    mesh: the devices to lay the weights on.
    overrides: keys of config.json that are to have other values.
    allow_pickle: see `files.weight_files`.
  """
  family, config = read_config(folder, overrides)
  layers = config.num_layers
  encoder = family.encoder(config, layers, dtype)
  shapes = abstract_params(encoder)
  with Weights(folder, allow_pickle) as weights:
    pooled = any("pooler." in name for name in weights)
    kept = _select(shapes, lambda path: pooled or path[0] != "pooler")
    params = _read_params(weights, family.names, kept, layers, mesh, dtype)
  return encoder, params


def read_config(
  folder: pathlib.Path, overrides: Mapping[str, Any] | None = None
) -> tuple[Family, Any]:
  """Family and frozen config of a folder, from its config.json alone.

  Args:
    folder: a Hugging Face model folder.
    overrides: keys that are to have other values than in the file.
  """
  hf_config = files.model_config(folder) | dict(overrides or {})
  return parse_config(hf_config, f"{folder}/config.json")


def parse_config(hf_config: Mapping[str, Any], name: str) -> tuple[Family, Any]:
  """Family and frozen config of an architecture.

  Args:
    hf_config: as a config.json says it.
    name: what error messages call it.
  """
  try:
    return registry.parse_config(hf_config)
  except KeyError as error:
    raise UserError(f"{name} lacks the key {error}.") from None
  except UserError as error:
    raise UserError(f"{name}: {error}") from error
  except DAMAGED_JSON as error:
    reason = f"{type(error).__name__}: {error}".split("\n")[0]
    raise UserError(f"{name} is not usable: {reason}.") from error


def check_layer(layer: int, num_layers: int) -> None:
  """Raises UserError unless `layer` is one of 1 ... num_layers."""
  if not 1 <= layer <= num_layers:
    raise UserError(
      f"teacher.layer={layer} does not exist; this teacher has layers 1 to "
      f"{num_layers}."
    )


def _read_params(
  weights: Weights,
  table: KeyTable,
  boxed: Params,
  num_layers: int,
  mesh: Mesh,
  dtype: DTypeLike,
) -> Params:
  """Reads every parameter of `boxed`, or says all that is wrong.

  Args:
    weights: tensors, in any of the table's prefixes.
    table: our paths -> the files' names.
    boxed: abstract parameters with logical axes.
    num_layers: blocks of the encoder.
    mesh: the devices to lay the weights on.
    dtype: what the weights are cast to, on the host.
  """
  sources = _find(weights, table, boxed, num_layers)
  shapes: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
  layouts: Any = flax.traverse_util.flatten_dict(
    sharding.param_shardings(boxed, mesh)
  )
  params = {}
  for path, names in sources.items():
    read = functools.partial(_read, weights, path, names, dtype)
    array = _place(shapes[path].shape, layouts[path], read)
    # A copy on the host lives until it has reached the devices.
    params[path] = jax.block_until_ready(array)
  return flax.traverse_util.unflatten_dict(params)


def _place(
  shape: tuple[int, ...],
  layout: NamedSharding,
  read: Callable[[Index], np.ndarray],
) -> jax.Array:
  """Has every device's part read, and no other."""

  @functools.cache  # Devices that hold the same part share one reading.
  def part(*bounds: tuple[int, int]) -> np.ndarray:
    return read(tuple(slice(*bound) for bound in bounds))

  def shard(index: Index | None) -> np.ndarray:
    pairs = zip(index or (), shape, strict=True)
    return part(*(s.indices(size)[:2] for s, size in pairs))

  return jax.make_array_from_callback(shape, layout, shard)


def _find(
  weights: Weights, table: KeyTable, boxed: Params, num_layers: int
) -> dict[tuple[str, ...], list[str]]:
  """The tensors behind every parameter, all there and of the right shape."""
  shapes: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
  names = {
    path: table.names(path, leaf.shape, num_layers)
    for path, leaf in shapes.items()
  }
  rename = _renaming(
    weights, table, [n for all_ in names.values() for n in all_]
  )
  sources = {path: list(map(rename, some)) for path, some in names.items()}
  _check(weights, shapes, sources)
  used = {name for names in sources.values() for name in names}
  left = sorted(set(weights) - used)
  logging.info(
    "%s: %d tensors used, not needed: %s", weights.folder, len(used), left
  )
  return sources


def _teacher(
  encoder: Any, params: Params, capture: str, fingerprint: str
) -> Teacher:
  rotated = capture == "post_rope"
  method = "rotated_projections" if rotated else "__call__"

  def project(params: Params, batch: Batch) -> Qkv:
    return encoder.apply({"params": params}, batch, method=method)

  return Teacher(
    project=project,
    params=params,
    widths=encoder.config.widths,
    vocab_size=encoder.config.vocab_size,
    max_positions=encoder.config.max_positions,
    fingerprint=fingerprint,
    tables=vocabulary_tables(abstract_params(encoder)),
  )


def _select(
  params: Params, wanted: Callable[[tuple[str, ...]], bool]
) -> Params:
  """The part of a parameter tree whose paths are wanted."""
  boxed = flax.traverse_util.flatten_dict(params)
  return flax.traverse_util.unflatten_dict(
    {path: leaf for path, leaf in boxed.items() if wanted(path)}
  )


def _renaming(
  weights: Weights, table: KeyTable, names: Sequence[str]
) -> Callable[[str], str]:
  """How these files spell the table's names: prefix and legacy endings."""

  def rename(name: str, prefix: str) -> str:
    name = prefix + name
    for new, old in table.aliases.items():
      legacy = name.replace(new, old)
      if name not in weights and legacy in weights:
        return legacy
    return name

  def found(prefix: str) -> int:
    return sum(rename(name, prefix) in weights for name in names)

  prefix = max(table.prefixes, key=found)
  return lambda name: rename(name, prefix)


def _check(
  weights: Weights,
  shapes: Mapping[tuple[str, ...], Any],
  sources: Mapping[tuple[str, ...], Sequence[str]],
) -> None:
  problems = []
  for path, names in sources.items():
    expected = shapes[path].shape
    expected = expected[1:] if path[0] == "layers" else expected
    expected = expected[::-1] if path[-1] == "kernel" else expected
    for name in names:
      if name not in weights:
        problems.append(f"{name} is missing{weights.why_missing(name)}")
        continue
      info = weights.info(name)
      if info.shape != expected:
        problems.append(f"{name} has shape {info.shape}, expected {expected}")
      # Whole numbers are quantised weights, which mean nothing as they are.
      if info.dtype not in FLOATS:
        problems.append(
          f"{name} is {info.dtype}, expected one of {', '.join(FLOATS)}"
        )
  if problems:
    shown = "; ".join(problems[:20])
    more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise UserError(
      f"{weights.folder}: the weights do not fit config.json: {shown}{more}."
    )


def _read(
  weights: Weights,
  path: tuple[str, ...],
  names: Sequence[str],
  dtype: DTypeLike,
  part: Index,
) -> np.ndarray:
  """Part of a parameter: stacked over blocks, and in Flax's orientation."""
  stacked = path[0] == "layers"
  array = _empty([s.stop - s.start for s in part], dtype)
  targets, inner = [array], part
  if stacked:
    targets, inner, names = list(array), part[1:], names[part[0]]
  for target, name in zip(targets, names, strict=True):
    if path[-1] == "kernel":
      weights.read_into(target.T, name, inner[::-1])
    else:
      weights.read_into(target, name, inner)
  return array


def _empty(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
  """An array that JAX takes over on a CPU, rather than copying it."""
  size, edge = math.prod(shape) * np.dtype(dtype).itemsize, 64
  raw = np.empty(size + edge, np.uint8)
  start = -raw.ctypes.data % edge
  return raw[start : start + size].view(dtype).reshape(shape)
