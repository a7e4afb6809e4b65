"""The skeleton that all families share: blocks, the last one distilled."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.core.arrays import PROJECTIONS, Batch, Qkv
from time_jax.core.errors import UserError
from time_jax.models import layers
from time_jax.models.attention_operands import split_heads

# Blocks that are compiled one by one: of a student of six, all but the last.
_UNROLLED = 5

Hidden = Float[Array, "B T D"]
Config = TypeVar("Config", bound="Sizes")

# Field of a config -> its key in most config.json, where that has another name.
_KEYS = {
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "max_positions": "max_position_embeddings",
  "activation": "hidden_act",
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes that every family has; a family's config derives from it.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: transformer blocks of the complete network.
    num_heads: attention heads N of the queries.
    intermediate_size: F.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  intermediate_size: int

  def __post_init__(self) -> None:
    if activation := getattr(self, "activation", None):
      layers.check_activation(activation)


@dataclasses.dataclass(frozen=True)
class EvenSizes(Sizes):
  """The sizes of a family whose attention heads share D evenly."""

  def __post_init__(self) -> None:
    if self.hidden_size % self.num_heads:
      raise UserError(
        f"num_heads={self.num_heads} must divide "
        f"hidden_size={self.hidden_size}."
      )
    super().__post_init__()

  @property
  def head_dim(self) -> int:
    """Returns the width H of an attention head."""
    return self.hidden_size // self.num_heads

  @property
  def widths(self) -> dict[str, int]:
    """Returns the widths of the three projections."""
    return dict.fromkeys(PROJECTIONS.values(), self.hidden_size)


def read_fields(
  kind: type[Config],
  hf: Mapping[str, Any],
  keys: Mapping[str, str] | None = None,
  **values: Any,
) -> Config:
  """Makes a family's config of a Hugging Face config.json.

  Args:
    kind: class of the config. A field takes the value of its key in
      config.json, and its default where there is no such key.
    hf: the content of config.json.
    keys: field -> its key, where the family differs from most.
    **values: fields that are more than the value of a key.

  Raises:
    KeyError: a key is missing whose field has no default.
  """
  keys = _KEYS | dict(keys or {})
  for field in dataclasses.fields(kind):
    key = keys.get(field.name, field.name)
    required = field.default is dataclasses.MISSING
    if field.name not in values and (required or key in hf):
      values[field.name] = hf[key]
  return kind(**values)


class Context(NamedTuple):
  """What a block takes besides its input.

  Attributes:
    shared: what `Encoder.enter` returns for all blocks.
    kind: the block's number in `Encoder.kinds`.
    deterministic: False switches dropout on.
  """

  shared: Any
  kind: Any
  deterministic: bool = True


class Block(layers.Parts, nn.Module):
  """One transformer block, pre-norm unless a family overrides `__call__`.

  A family says in `setup` what the modules are, by the names that their
  parameters get. Used here are `attention_norm`, `query`, `key`, `value`,
  `attention_out`, `ffn_norm` and `ffn_out`.

  Attributes:
    config: the family's frozen config.
    dtype: of computation; parameters keep their own.
  """

  config: Any
  dtype: DTypeLike = jnp.dtype("float32")

  def project(self, x: Hidden) -> Qkv:
    """Computes the three projections of the normed input, not rotated."""
    x = self.attention_norm(x)
    return Qkv(self.query(x), self.key(x), self.value(x))

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Computes attention without its output projection."""
    raise NotImplementedError

  def ffn_hidden(self, x: Hidden) -> Float[Array, "B T F"]:
    """Computes the feed-forward layer without its output projection."""
    raise NotImplementedError

  def __call__(self, x: Hidden, context: Context) -> Hidden:
    """Adds attention and feed-forward, each of its normed input.

    Args:
      x: output of the block below.
      context: what else the block takes.
    """
    x = x + self.attention_out(self.attention(self.project(x), context))
    return x + self.ffn_out(self.ffn_hidden(self.ffn_norm(x)))

  def split_heads(self, x: Float[Array, "... D"]) -> Float[Array, "... N H"]:
    """Cuts a projection into attention heads."""
    return split_heads(x, self.config.num_heads)


class Encoder(layers.Parts, nn.Module):
  """The first `num_layers` blocks of a network.

  A family derives from it, once, and says in `setup` what the parts are, by
  the names that their parameters get:

    embeddings, relative ...  what `enter` uses: all that is there once
    first    block 1, only where it is built unlike the others
    layers   the blocks between, stacked on a leading axis
    last     block `num_layers`, of which a call needs the projections only
    final_norm, pooler        what follows the blocks; never distilled

  Attributes:
    config: the family's frozen config, of the complete network.
    num_layers: blocks up to and including the distilled one.
    dtype: of computation; parameters keep their own.
  """

  config: Any
  num_layers: int
  dtype: DTypeLike = jnp.dtype("float32")

  @nn.nowrap
  def setup_blocks(
    self,
    block: type[Block],
    first: Mapping[str, Any] | None = None,
    only: Mapping[str, Any] | None = None,
  ) -> None:
    """Makes `first`, `layers` and `last`; for `setup`.

    Args:
      block: class of the blocks.
      first: options of block 1 by which it differs from the others.
      only: the same for a block 1 that is the last one, too.
    """
    between = self.num_layers - 1
    if first and between:
      self.first = block(self.config, self.dtype, **first)
      between -= 1
    if between:
      self.layers = stack(block, between)(self.config, self.dtype)
    options = only if only and self.num_layers == 1 else {}
    self.last = block(self.config, self.dtype, **options)

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Any]:
    """Embeds a batch.

    Returns:
      The input of block 1, and what every block shares: masks, positions,
      relative tables.
    """
    raise NotImplementedError

  def leave(self, x: Hidden) -> Hidden:
    """Makes the model's output: by the final norm, if there is one."""
    final_norm = getattr(self, "final_norm", None)
    return x if final_norm is None else final_norm(x)

  def kinds(self) -> np.ndarray:
    """Returns a number for each block, where blocks of a network differ."""
    return np.zeros(self.num_layers, np.int32)

  def __call__(self, batch: Batch, *, deterministic: bool = True) -> Qkv:
    """Computes the projections of block `num_layers`, and nothing above them.

    Args:
      batch: token rows.
      deterministic: False switches dropout on, which needs an rng "dropout".
    """
    states, _ = self.below(batch, deterministic)
    return self.last.project(states[-1])

  def with_states(
    self,
    batch: Batch,
    layers: Collection[int],
    *,
    deterministic: bool = True,
  ) -> tuple[Qkv, dict[int, Hidden]]:
    """Computes the projections of block `num_layers`, and outputs of blocks.

    Args:
      batch: token rows.
      layers: the blocks whose outputs are wanted, from 1.
      deterministic: as for a call.
    """
    inputs, context = self.below(batch, deterministic)
    states = {n: inputs[n] for n in layers if n < self.num_layers}
    if self.num_layers in layers:
      states[self.num_layers] = self.top_state(self.last(inputs[-1], context))
    return self.last.project(inputs[-1]), states

  def top_state(self, x: Hidden) -> Hidden:
    """Makes a hidden state of the output of block `num_layers`.

    The final norm follows the last block of the complete network alone.
    """
    return self.leave(x) if self.num_layers == self.config.num_layers else x

  def rotated_projections(self, batch: Batch) -> Qkv:
    """Computes the same after RoPE, in families that have it."""
    states, context = self.below(batch, deterministic=True)
    return self.last.rotate(self.last.project(states[-1]), context)

  def hidden_states(
    self, batch: Batch, *, deterministic: bool = True
  ) -> Float[Array, "states B T D"]:
    """Computes the embeddings and the output of every block: L + 1 states.

    The last one is what the model hands on, after its final norm.
    """
    states, context = self.below(batch, deterministic)
    x = self.last(states[-1], context)
    return jnp.stack([*states, self.leave(x)])

  def all_outputs(self, batch: Batch) -> Any:
    """Uses every parameter: fresh weights are initialised by this call."""
    return self.hidden_states(batch)

  def below(
    self, batch: Batch, deterministic: bool
  ) -> tuple[list[Hidden], Context]:
    """Returns the inputs of blocks 1 ... num_layers, and the last's context."""
    x, shared = self.enter(batch, deterministic)
    states, kinds = [lay_out(x)], self.kinds()
    context = Context(shared, kinds[0], deterministic)
    first = getattr(self, "first", None)
    if first is not None:
      x = first(states[0], context)
      states.append(lay_out(x))
    middle = jnp.asarray(kinds[len(states) - 1 : -1])
    if len(middle):
      x, outputs = self.layers(states[-1], context._replace(kind=middle))
      # A program that reads the last output only then keeps no stack of all.
      states += [*outputs[:-1], x]
    return states, context._replace(kind=kinds[-1])


def stack(block: type[nn.Module], length: int) -> type[nn.Module]:
  """Returns `length` blocks in a row, their parameters on a leading axis.

  One scanned body compiles in the time of one block, however many there are.
  Those of a student are unrolled, for what the gradient needs of each would be
  copied into stacks and out again. A call returns the last output, and all of
  them.
  """

  class Step(block):
    def __call__(self, x: Hidden, context: Context) -> tuple[Hidden, Hidden]:
      x = lay_out(super().__call__(x, context))
      return x, x

  shared: Any = nn.broadcast
  return nn.scan(
    Step,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(Context(shared, kind=0, deterministic=shared),),
    length=length,
    unroll=unrolled(length),
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


def unrolled(length: int) -> int:
  """Returns how many of `length` blocks in a row are compiled one by one."""
  return length if length <= _UNROLLED else 1


def lay_out(x: Hidden) -> Hidden:
  """Lays hidden states out over the devices of the mesh."""
  return nn.with_logical_constraint(x, ("batch", "length", "hidden"))
