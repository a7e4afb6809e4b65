"""Defines what an encoder family provides, and functions for all families."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array

from time_jax.core.arrays import Batch, Qkv, Targets

Params = Any  # A nested dict of arrays, keyed by module names.
Path = tuple[str, ...]  # The keys that lead to one of its arrays.

# Our name for a parameter of a module -> PyTorch's.
LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "bias": "bias",
}


@dataclasses.dataclass(frozen=True)
class KeyTable:
  """Names that Hugging Face files give to the modules of an encoder.

  A row says which of their modules one of ours is, and stands for all of its
  tensors: {"ffn_in": "mlp.Wi"} for ffn_in/kernel, which is mlp.Wi.weight
  there, and ffn_in/bias. A row may also name a single tensor.

  Attributes:
    prefixes: what may stand before every name in a file.
    whole: rows of what exists once.
    block_prefix: stands before the names of a block; `{layer}` counts from 0.
    block: rows of what every block has.
    aliases: part of a name -> how some files spell it.
  """

  prefixes: tuple[str, ...]
  whole: Mapping[str, str]
  block_prefix: str
  block: Mapping[str, str]
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def tensors(self) -> dict[str, str]:
    """Path -> name of every tensor that modules outside blocks may have."""
    named = {
      f"{path}/{ours}": f"{name}.{theirs}"
      for path, name in self.whole.items()
      for ours, theirs in LEAVES.items()
    }
    return named | dict(self.whole)

  def names(
    self, path: Path, shape: Sequence[int], num_layers: int
  ) -> list[str]:
    """Returns the names of the tensors that one parameter is made of.

    Args:
      path: of the parameter; under "layers" it is stacked over the blocks
        between the first and the last, and has a name for each.
      shape: of the parameter.
      num_layers: blocks of the encoder, the last one included.
    """
    once = self.tensors.get("/".join(path))
    if once is not None:
      return [once]
    module = self.block["/".join(path[1:-1])]
    name = f"{self.block_prefix}{module}.{LEAVES[path[-1]]}"
    last = num_layers - 1
    blocks = {
      "first": [0],
      "layers": range(last - shape[0], last),
      "last": [last],
    }
    return [name.format(layer=block) for block in blocks[path[0]]]


@dataclasses.dataclass(frozen=True)
class Family:
  """One architecture group.

  Attributes:
    parse_config: reads config.json, as a mapping, into the family's frozen
      config. That has num_layers, vocab_size, widths (of query, key and
      value), head_dim, and max_positions: the longest document or None.
    encoder: its `models.encoder.Encoder`.
    names: key table of its Hugging Face files.
    projecting: modules of a block that its projections are computed by.
    rotary: whether the family has RoPE; its block then has a method `rotate`.
  """

  parse_config: Callable[[Mapping[str, Any]], Any]
  encoder: Callable[..., nn.Module]
  names: KeyTable
  projecting: tuple[str, ...]
  rotary: bool = False

  def feeds_projections(self, path: Path) -> bool:
    """Returns whether the last block's projections depend on a parameter.

    Only these need a teacher keep, and only these can a student learn: what
    comes after the projections gets no gradient. PyTorch leaves such tensors
    alone; plain AdamW in optax would decay them away.

    Args:
      path: of the parameter.
    """
    if path[0] == "last":
      return path[1] in self.projecting
    return self.feeds_state(path)

  def feeds_state(self, path: Path) -> bool:
    """Returns whether the last block's output depends on a parameter.

    This is to the hidden states what `feeds_projections` is to projections.

    Args:
      path: of the parameter.
    """
    return path[0] not in ("final_norm", "pooler")


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen encoder, cut off at the highest of its distilled layers.

  Attributes:
    targets: computes what its distilled layers hand out from (params, batch);
      deterministic.
    layers: the layers whose projections are distilled, 1-based, ascending.
    params: the parameters that `targets` reads, and no others.
    widths: width of "query", "key" and "value".
    vocab_size: token ids are below this.
    max_positions: longest document, in tokens; None for any.
    fingerprint: hash of the weights' files, kept with every checkpoint.
    tables: see `vocabulary_tables`; empty where no logical axes are known.
    states: the layers whose hidden states are distilled, 1-based, ascending.
    hidden_size: width of the hidden states; 0 where none is distilled.
  """

  targets: Callable[[Params, Batch], Targets]
  layers: tuple[int, ...]
  params: Params
  widths: Mapping[str, int]
  vocab_size: int
  max_positions: int | None
  fingerprint: str
  tables: frozenset[Path] = frozenset()
  states: tuple[int, ...] = ()
  hidden_size: int = 0

  def project(self, params: Params, batch: Batch) -> Qkv:
    """Computes the projections of the highest of the distilled layers."""
    return self.targets(params, batch).projections[self.layers[-1]]


@functools.partial(jax.jit, static_argnums=0, inline=True)
def init_params(encoder: nn.Module, rng: Array) -> Params:
  """Returns fresh weights, boxed with their logical axes.

  Python reads an encoder once, and not again for each of a run's programs.
  """
  ones = jnp.ones((1, 1), jnp.int32)
  batch = Batch(tokens=ones, segment_ids=ones, positions=0 * ones)
  return encoder.init(rng, batch, method="all_outputs")["params"]


def abstract_params(encoder: nn.Module) -> Params:
  """Returns shapes and logical axes of all parameters; computes none.

  Equal encoders share the tree, which is not to be changed.
  """
  return _abstract_params(encoder)


@functools.lru_cache(maxsize=16)  # A command asks for the same several times.
def _abstract_params(encoder: nn.Module) -> Params:
  return jax.eval_shape(lambda: init_params(encoder, jax.random.key(0)))


def vocabulary_tables(boxed: Params) -> frozenset[Path]:
  """Returns the paths of the parameters that have a row for every token.

  Args:
    boxed: parameters with logical axes, as the functions above return them.
  """
  leaves: Any = flax.traverse_util.flatten_dict(boxed)
  return frozenset(path for path, box in leaves.items() if "vocab" in box.names)


def names_of(path: Sequence[Any]) -> Path:
  """Returns the names in a path as `jax.tree.map_with_path` gives it."""
  return tuple(key.key for key in path)
