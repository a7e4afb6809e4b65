"""What every encoder family provides, and what can be done with any of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from time_jax.core.arrays import Batch, Qkv

Params = Any  # A nested dict of arrays, keyed by module names.


@dataclasses.dataclass(frozen=True)
class KeyTable:
  """Our parameter paths and the names that Hugging Face files give them.

  Attributes:
    prefixes: what may stand before every name in a file.
    whole: path -> name of what exists once.
    block_prefix: before the name of a block's tensor; `{layer}` counts from 0.
    block: path inside a block -> name.
    aliases: part of a name -> how some files spell it.
  """

  prefixes: tuple[str, ...]
  whole: Mapping[str, str]
  block_prefix: str
  block: Mapping[str, str]
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def names(
    self, path: tuple[str, ...], shape: Sequence[int], num_layers: int
  ) -> list[str]:
    """Names of the tensors behind one parameter.

    Args:
      path: of the parameter; under "layers" it is stacked over the blocks
        before the last one, and has a name for each.
      shape: of the parameter.
      num_layers: blocks of the encoder, the last one included.
    """
    if "/".join(path) in self.whole:
      return [self.whole["/".join(path)]]
    name = self.block_prefix + self.block["/".join(path[1:])]
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
    parse_config: config.json as a mapping -> the family's frozen config. It
      has num_layers, vocab_size, widths (of query, key and value),
      head_dim, and max_positions, the longest document or None.
    encoder: its `models.encoder.Encoder`.
    names: key table of its Hugging Face files.
    projecting: the parts of a block that its projections run through.
    rotary: whether queries and keys are rotated behind the projections; the
      encoder then has `rotated_projections`.
  """

  parse_config: Callable[[Mapping[str, Any]], Any]
  encoder: Callable[..., nn.Module]
  names: KeyTable
  projecting: tuple[str, ...]
  rotary: bool = False

  def feeds_projections(self, path: tuple[str, ...]) -> bool:
    """Whether the last block's projections depend on the parameter at `path`.

    These are what a teacher needs to keep, and what a student can learn:
    behind the projections no tensor gets a gradient. PyTorch leaves such
    tensors alone; plain AdamW in optax would decay them away.
    """
    if path[0] == "last":
      return path[1] in self.projecting
    return path[0] not in ("final_norm", "pooler")


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen encoder, cut off at its distilled layer.

  Attributes:
    project: pure and deterministic (params, batch) -> projections.
    params: only what `project` reads.
    widths: width of "query", "key" and "value".
    vocab_size: token ids are below this.
    max_positions: longest document, in tokens; None: any.
    fingerprint: hash of the weights' files, kept with every checkpoint.
  """

  project: Callable[[Params, Batch], Qkv]
  params: Params
  widths: Mapping[str, int]
  vocab_size: int
  max_positions: int | None
  fingerprint: str


def init_params(encoder: nn.Module, rng: Array) -> Params:
  """Fresh weights, boxed with their logical axes (see parallel/sharding.py)."""
  ones = jnp.ones((1, 1), jnp.int32)
  batch = Batch(tokens=ones, segment_ids=ones, positions=0 * ones)
  return encoder.init(rng, batch, method="all_outputs")["params"]


def abstract_params(encoder: nn.Module) -> Params:
  """Shapes and logical axes of all parameters, without computing any."""
  return jax.eval_shape(lambda: init_params(encoder, jax.random.key(0)))
