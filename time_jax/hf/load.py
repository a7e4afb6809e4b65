"""Hugging Face folder -> encoder and parameters, straight to the devices."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jax.typing import DTypeLike

from time_jax import sharding
from time_jax.arrays import Batch, Qkv
from time_jax.errors import UserError
from time_jax.hf import files
from time_jax.models import registry
from time_jax.models.family import (
  Family,
  KeyTable,
  Params,
  Teacher,
  abstract_params,
  init_params,
)


def load_teacher(
  path: str,
  layer: int,
  *,
  dtype: DTypeLike,
  mesh: Mesh,
) -> Teacher:
  """Loads a teacher up to the projections of one layer.

  Args:
    path: see `files.resolve`.
    layer: the distilled layer, 1-based. Blocks above it, and what follows
      the projections inside it, are neither read nor kept.
    dtype: of parameters and computation.
    mesh: the devices to lay the weights on.

  Raises:
    UserError: the folder, its config or its tensors are not as expected.
  """
  folder = files.resolve(path)
  family, config = read_config(folder)
  check_layer(layer, config.num_layers)
  encoder = family.encoder(config, layer, dtype)
  shapes = abstract_params(encoder)
  kept = _select(shapes, family.feeds_projections)
  params = read_params(folder, family.names, kept, layer, mesh, dtype)
  return _teacher(encoder, params, files.fingerprint(folder))


def check_teacher(folder: pathlib.Path, layer: int) -> None:
  """Raises UserError if `load_teacher` would; reads the files' headers only."""
  family, config = read_config(folder)
  check_layer(layer, config.num_layers)
  encoder = family.encoder(config, layer, "float32")
  kept = _select(abstract_params(encoder), family.feeds_projections)
  with contextlib.closing(files.Weights(folder)) as weights:
    _find(folder, weights, family.names, kept, layer)


def random_teacher(
  hf_config: Mapping[str, Any],
  layer: int,
  *,
  seed: int,
  dtype: DTypeLike,
  mesh: Mesh,
) -> Teacher:
  """A teacher of random weights, for measuring speed and memory.

  Args:
    hf_config: the architecture, as a config.json would say it.
    layer: the distilled layer, 1-based.
    seed: of the weights.
    dtype: of parameters and computation.
    mesh: the devices to lay the weights on.
  """
  family = registry.find_family(hf_config)
  config = family.parse_config(hf_config)
  check_layer(layer, config.num_layers)
  encoder = family.encoder(config, layer, dtype)
  kept = _select(abstract_params(encoder), family.feeds_projections)

  def fresh() -> Params:
    params = nn.meta.unbox(init_params(encoder, jax.random.key(seed)))
    params = _select(params, family.feeds_projections)
    return jax.tree.map(lambda x: x.astype(dtype), params)

  init = jax.jit(fresh, out_shardings=sharding.param_shardings(kept, mesh))
  return _teacher(encoder, init(), f"random-{seed}")


def load_encoder(
  folder: pathlib.Path, *, dtype: DTypeLike, mesh: Mesh
) -> tuple[nn.Module, Params]:
  """Loads a complete encoder, every block whole (the pooler if it is there).

  Args:
    folder: a Hugging Face model folder.
    dtype: of parameters and computation.
    mesh: the devices to lay the weights on.
  """
  family, config = read_config(folder)
  encoder = family.encoder(config, config.num_layers, dtype)
  shapes = abstract_params(encoder)
  pooled = any("pooler." in name for name in files.Weights(folder))
  kept = _select(shapes, lambda path: pooled or path[0] != "pooler")
  params = read_params(
    folder, family.names, kept, config.num_layers, mesh, dtype
  )
  return encoder, params


def read_config(folder: pathlib.Path) -> tuple[Family, Any]:
  """Family and frozen config of a folder, from its config.json alone."""
  hf_config = files.read_json(folder / "config.json")
  family = registry.find_family(hf_config)
  try:
    return family, family.parse_config(hf_config)
  except KeyError as error:
    raise UserError(f"{folder}/config.json lacks the key {error}.") from None


def check_layer(layer: int, num_layers: int) -> None:
  """Raises UserError unless `layer` is one of 1 ... num_layers."""
  if not 1 <= layer <= num_layers:
    raise UserError(
      f"teacher.layer={layer} does not exist; this teacher has layers 1 to "
      f"{num_layers}."
    )


def read_params(
  folder: pathlib.Path,
  table: KeyTable,
  boxed: Params,
  num_layers: int,
  mesh: Mesh,
  dtype: DTypeLike,
) -> Params:
  """Reads every parameter of `boxed` from a folder, or says all that is wrong.

  Args:
    folder: with safetensors files, in any of the table's prefixes.
    table: our paths -> the files' names.
    boxed: abstract parameters with logical axes.
    num_layers: blocks of the encoder.
    mesh: the devices to lay the weights on.
    dtype: what floating-point weights are cast to, on the host.
  """
  layout: Any = flax.traverse_util.flatten_dict(
    sharding.param_shardings(boxed, mesh)
  )
  with contextlib.closing(files.Weights(folder)) as weights:
    sources = _find(folder, weights, table, boxed, num_layers)
    params = {
      path: sharding.place(_read(weights, path, names, dtype), layout[path])
      for path, names in sources.items()
    }
  return flax.traverse_util.unflatten_dict(params)


def _find(
  folder: pathlib.Path,
  weights: files.Weights,
  table: KeyTable,
  boxed: Params,
  num_layers: int,
) -> dict[tuple[str, ...], list[str]]:
  """The tensors behind every parameter, all there and of the right shape."""
  rename = _renaming(weights, table)
  shapes: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
  sources = {
    path: [rename(n) for n in table.names(path, leaf.shape, num_layers)]
    for path, leaf in shapes.items()
  }
  _check(folder, weights, shapes, sources)
  used = {name for names in sources.values() for name in names}
  left = sorted(set(weights) - used)
  logging.info("%s: %d tensors used, not needed: %s", folder, len(used), left)
  return sources


def _teacher(encoder: Any, params: Params, fingerprint: str) -> Teacher:
  def project(params: Params, batch: Batch) -> Qkv:
    return encoder.apply({"params": params}, batch, deterministic=True)

  return Teacher(
    project=project,
    params=params,
    widths=encoder.config.widths,
    vocab_size=encoder.config.vocab_size,
    max_positions=encoder.config.max_positions,
    fingerprint=fingerprint,
  )


def _select(
  params: Params, wanted: Callable[[tuple[str, ...]], bool]
) -> Params:
  """The part of a parameter tree whose paths are wanted."""
  boxed = flax.traverse_util.flatten_dict(params)
  return flax.traverse_util.unflatten_dict(
    {path: leaf for path, leaf in boxed.items() if wanted(path)}
  )


def _renaming(weights: files.Weights, table: KeyTable) -> Callable[[str], str]:
  """How this folder spells the table's names: prefix and legacy endings."""
  anchor = next(iter(table.whole.values()))
  prefix = next((p for p in table.prefixes if p + anchor in weights), "")

  def rename(name: str) -> str:
    name = prefix + name
    for new, old in table.aliases.items():
      legacy = name.replace(new, old)
      if name not in weights and legacy in weights:
        return legacy
    return name

  return rename


def _check(
  folder: pathlib.Path,
  weights: files.Weights,
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
        problems.append(f"{name} is missing")
      elif weights.shape(name) != expected:
        problems.append(
          f"{name} has shape {weights.shape(name)}, expected {expected}"
        )
  if problems:
    shown = "; ".join(problems[:20])
    more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise UserError(
      f"{folder}: the weights do not fit config.json: {shown}{more}."
    )


def _read(
  weights: files.Weights,
  path: tuple[str, ...],
  names: Sequence[str],
  dtype: DTypeLike,
) -> np.ndarray:
  """One parameter, stacked over blocks and turned into Flax's orientation."""
  tensors = [weights.read(name).astype(dtype) for name in names]
  if path[-1] == "kernel":
    tensors = [tensor.T for tensor in tensors]
  return np.stack(tensors) if path[0] == "layers" else tensors[0]
