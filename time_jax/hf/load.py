"""Loads encoders from Hugging Face folders, straight to the devices."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from time_jax.core.arrays import Batch, Targets
from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.core.storage.paths import Path
from time_jax.hf import files
from time_jax.hf.read_params import find_tensors, read_params
from time_jax.hf.weight_files import fingerprint
from time_jax.hf.weights import Weights
from time_jax.models import registry, taps
from time_jax.models.family import (
  Family,
  Params,
  Teacher,
  abstract_params,
  init_params,
  vocabulary_tables,
)
from time_jax.parallel import sharding


def load_teacher(
  path: str,
  layers: Collection[int],
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  capture: str = "projections",
  overrides: Mapping[str, Any] | None = None,
  allow_pickle: bool = False,
  states: Collection[int] = (),
) -> Teacher:
  """Loads a teacher up to the highest layer asked for.

  Args:
    path: a folder, package or hub id, see `files.resolve`.
    layers: the layers whose projections are distilled, 1-based. Blocks above
      the highest, and what follows the projections inside it, are neither read
      nor kept, but for what `states` needs.
    dtype: dtype of parameters and computation.
    mesh: the devices to lay the weights on.
    capture: "projections", or "post_rope" for what RoPE makes of them.
    overrides: keys of config.json that are to have other values.
    allow_pickle: see `weight_files.find_weights`.
    states: the layers whose hidden states are distilled, 1-based.

  Raises:
    UserError: the folder, its config or its tensors are not as expected.
  """
  folder = files.resolve(path, allow_pickle)
  family, config = read_config(folder, overrides)
  encoder, kept = _cut_off(family, config, layers, states, dtype)
  top = encoder.num_layers
  with Weights(folder, allow_pickle) as weights:
    params = read_params(weights, family.names, kept, top, mesh, dtype)
  identity = fingerprint(folder, allow_pickle)
  return _teacher(encoder, layers, states, params, capture, identity)


def check_teacher(
  folder: Path,
  layers: Collection[int],
  allow_pickle: bool = False,
  states: Collection[int] = (),
) -> list[str]:
  """Checks a teacher by the headers of its files, without reading weights.

  Args:
    folder: the model's folder.
    layers: as for `load_teacher`.
    allow_pickle: see `weight_files.find_weights`.
    states: as for `load_teacher`.

  Returns:
    Names of the tensors that `load_teacher` would read.

  Raises:
    UserError: `load_teacher` would raise it.
  """
  family, config = read_config(folder)
  encoder, kept = _cut_off(family, config, layers, states, "float32")
  with Weights(folder, allow_pickle) as weights:
    sources = find_tensors(weights, family.names, kept, encoder.num_layers)
  return [name for names in sources.values() for name in names]


def random_teacher(
  hf_config: Mapping[str, Any],
  layers: Collection[int],
  *,
  seed: int,
  dtype: DTypeLike,
  mesh: Mesh,
  capture: str = "projections",
  states: Collection[int] = (),
) -> Teacher:
  """Makes a teacher of random weights, for measuring speed and memory.

  Args:
    hf_config: the architecture, as a config.json would say it.
    layers: as for `load_teacher`.
    seed: seed of the weights.
    dtype: dtype of parameters and computation.
    mesh: the devices to lay the weights on.
    capture: as for `load_teacher`.
    states: as for `load_teacher`.
  """
  family, config = registry.parse_config(hf_config)
  encoder, kept = _cut_off(family, config, layers, states, dtype)
  paths = flax.traverse_util.flatten_dict(kept)

  def fresh() -> Params:
    params = nn.meta.unbox(init_params(encoder, jax.random.key(seed)))
    params = _select(params, paths.__contains__)
    return jax.tree.map(lambda x: x.astype(dtype), params)

  init = jax.jit(fresh, out_shardings=sharding.param_shardings(kept, mesh))
  identity = f"random-{seed}"
  return _teacher(encoder, layers, states, init(), capture, identity)


def abstract_teacher(
  hf_config: Mapping[str, Any],
  layers: Collection[int],
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  capture: str = "projections",
  states: Collection[int] = (),
) -> Teacher:
  """Makes a teacher whose parameters are shapes, to compile without weights.

  Args:
    hf_config: as for `random_teacher`.
    layers: as for `random_teacher`.
    dtype: as for `random_teacher`.
    mesh: devices, which need not exist on this machine.
    capture: as for `load_teacher`.
    states: as for `load_teacher`.
  """
  family, config = registry.parse_config(hf_config)
  encoder, kept = _cut_off(family, config, layers, states, dtype)
  params = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, dtype, sharding=leaf.sharding
    ),
    sharding.abstract(kept, mesh),
  )
  return _teacher(encoder, layers, states, params, capture, "none")


def load_encoder(
  folder: Path,
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  overrides: Mapping[str, Any] | None = None,
  allow_pickle: bool = False,
) -> tuple[nn.Module, Params]:
  """Loads a complete encoder, every block whole (the pooler if it is there).

  Args:
    folder: a Hugging Face model folder.
    dtype: dtype of parameters and computation.
    mesh: the devices to lay the weights on.
    overrides: keys of config.json that are to have other values.
    allow_pickle: see `weight_files.find_weights`.
  """
  family, config = read_config(folder, overrides)
  layers = config.num_layers
  encoder = family.encoder(config, layers, dtype)
  shapes = abstract_params(encoder)
  with Weights(folder, allow_pickle) as weights:
    pooled = any("pooler." in name for name in weights)
    kept = _select(shapes, lambda path: pooled or path[0] != "pooler")
    params = read_params(weights, family.names, kept, layers, mesh, dtype)
  return encoder, params


def read_config(
  folder: Path, overrides: Mapping[str, Any] | None = None
) -> tuple[Family, Any]:
  """Returns family and frozen config of a folder, from its config.json alone.

  Args:
    folder: a Hugging Face model folder.
    overrides: keys that are to have other values than in the file.
  """
  hf_config = files.model_config(folder) | dict(overrides or {})
  return parse_config(hf_config, f"{folder}/config.json")


def parse_config(hf_config: Mapping[str, Any], name: str) -> tuple[Family, Any]:
  """Returns family and frozen config of an architecture.

  Args:
    hf_config: the architecture, as a config.json says it.
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
  """Checks that a teacher has a layer.

  Args:
    layer: the distilled layer, 1-based.
    num_layers: layers of the teacher.

  Raises:
    UserError: `layer` is not one of 1 ... num_layers.
  """
  if not 1 <= layer <= num_layers:
    raise UserError(
      f"teacher.layer={layer} does not exist; this teacher has layers 1 to "
      f"{num_layers}."
    )


def _cut_off(
  family: Family,
  config: Any,
  layers: Collection[int],
  states: Collection[int],
  dtype: DTypeLike,
) -> tuple[Any, Params]:
  """Returns an encoder up to the highest layer, and what it needs, abstract."""
  for layer in (*layers, *states):
    check_layer(layer, config.num_layers)
  top = max([*layers, *states])
  if 1 in states and top < config.num_layers:
    top = max(top, 2)  # A first block may be whole only where one follows.
  encoder = family.encoder(config, top, dtype)
  needed = family.feeds_state if top in states else family.feeds_projections

  def kept(path: tuple[str, ...]) -> bool:
    ends = top in states and top == config.num_layers
    return needed(path) or (ends and path[0] == "final_norm")

  return encoder, _select(abstract_params(encoder), kept)


def _select(
  params: Params, wanted: Callable[[tuple[str, ...]], bool]
) -> Params:
  """Returns a parameter tree without the paths that are not wanted."""
  flat = flax.traverse_util.flatten_dict(params)
  return flax.traverse_util.unflatten_dict(
    {path: leaf for path, leaf in flat.items() if wanted(path)}
  )


def _teacher(
  encoder: Any,
  layers: Collection[int],
  states: Collection[int],
  params: Params,
  capture: str,
  fingerprint: str,
) -> Teacher:
  wanted, distilled = tuple(sorted(set(layers))), tuple(sorted(set(states)))
  rotated = capture == "post_rope"
  method = "rotated_projections" if rotated else "__call__"

  def last(params: Params, batch: Batch) -> Targets:
    qkv = encoder.apply({"params": params}, batch, method=method)
    return Targets({encoder.num_layers: qkv})

  def several(params: Params, batch: Batch) -> Targets:
    return taps.project(
      encoder, params, batch, wanted, states=distilled, rotated=rotated
    )

  return Teacher(
    targets=last if len(wanted) == 1 and not distilled else several,
    layers=wanted,
    params=params,
    widths=encoder.config.widths,
    vocab_size=encoder.config.vocab_size,
    max_positions=encoder.config.max_positions,
    fingerprint=fingerprint,
    tables=vocabulary_tables(abstract_params(encoder)),
    states=distilled,
    hidden_size=encoder.config.hidden_size if distilled else 0,
  )
