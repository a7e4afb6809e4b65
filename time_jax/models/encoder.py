"""The skeleton that all families share: blocks, the last one distilled."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv


class Encoder(nn.Module):
  """The first `num_layers` blocks of a network.

  A family derives from it, once, and says in `setup` what the parts are, by
  the names that their parameters get:

    embeddings, relative ...  what `enter` uses: all that is there once
    first    block 1, only where it is built unlike the others
    layers   `stack` of the blocks between, on a leading axis
    last     block `num_layers`, of which a call needs the projections only
    final_norm, pooler        what follows the blocks; never distilled

  A block is called as block(x, kind, shared, deterministic) -> x and has
  project(x) -> Qkv, and with RoPE rotate(qkv, kind, shared) -> Qkv.

  Attributes:
    config: the family's frozen config, of the complete network.
    num_layers: blocks up to and including the distilled one.
    dtype: of computation; parameters keep their own.
  """

  config: Any
  num_layers: int
  dtype: DTypeLike = jnp.dtype("float32")

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Embeds a batch.

    Returns:
      The input of block 1, and what every block shares: masks, positions,
      relative tables.
    """
    raise NotImplementedError

  def leave(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """From the last block's output to the model's; a final norm, say."""
    return x

  def kinds(self) -> np.ndarray:
    """A number for each block, for networks whose blocks take turns."""
    return np.zeros(self.num_layers, np.int32)

  def __call__(self, batch: Batch, *, deterministic: bool = True) -> Qkv:
    """Projections of block `num_layers`; nothing above them is computed.

    Args:
      batch: token rows.
      deterministic: False switches dropout on; needs an rng "dropout".
    """
    states, _ = self.below(batch, deterministic)
    return self.last.project(states[-1])

  def rotated_projections(
    self, batch: Batch, *, deterministic: bool = True
  ) -> Qkv:
    """The same behind RoPE; of families that have it."""
    states, shared = self.below(batch, deterministic)
    projections = self.last.project(states[-1])
    return self.last.rotate(projections, self.kinds()[-1], shared)

  def hidden_states(
    self, batch: Batch, *, deterministic: bool = True
  ) -> Float[Array, "states B T D"]:
    """Embedding output and the output of every block: L + 1 states.

    The last one is what the model hands on, after its final norm.
    """
    states, shared = self.below(batch, deterministic)
    x = self.last(states[-1], self.kinds()[-1], shared, deterministic)
    return jnp.stack([*states, self.leave(x)])

  def all_outputs(self, batch: Batch) -> Any:
    """Touches every parameter; what fresh weights are initialised with."""
    return self.hidden_states(batch)

  def below(self, batch: Batch, deterministic: bool) -> tuple[list[Array], Any]:
    """Inputs of blocks 1 ... num_layers, and what the blocks share."""
    x, shared = self.enter(batch, deterministic)
    states, kinds = [_lay_out(x)], self.kinds()
    first = getattr(self, "first", None)
    if first is not None:
      x = first(states[0], kinds[0], shared, deterministic)
      states.append(_lay_out(x))
    middle = jnp.asarray(kinds[len(states) - 1 : -1])
    if len(middle):
      x, outputs = self.layers(states[-1], middle, shared, deterministic)
      # Who wants the last alone has no stack of them all in memory.
      states += [*outputs[:-1], x]
    return states, shared


def stack(block: type[nn.Module], length: int) -> type[nn.Module]:
  """The block `length` times in a row, its parameters on a leading axis.

  One scanned body compiles in the time of one block, however many there are.
  Its call gives the last output, and all of them.
  """

  class Step(block):
    def __call__(self, x: Array, *arguments: Any) -> tuple[Array, Array]:
      x = _lay_out(super().__call__(x, *arguments))
      return x, x

  return nn.scan(
    Step,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(0, nn.broadcast, nn.broadcast),
    length=length,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


def _lay_out(x: Array) -> Array:
  return nn.with_logical_constraint(x, ("batch", "length", "hidden"))
