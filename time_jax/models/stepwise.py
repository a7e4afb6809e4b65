"""An encoder applied block by block, for inference.

Training scans over stacked parameters, which compiles in the time of one block.
On a CPU each iteration of that loop copies the block's parameters out of the
stack; for a sentence at a time that costs a large part of the block itself.
"""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch
from time_jax.models.encoder import Context
from time_jax.models.family import Params

_BLOCKS = ("first", "layers", "last")


def unstack(params: Params) -> Params:
  """Returns the parameters with a list of blocks in place of the stack.

  Args:
    params: parameters of an `encoder.Encoder`; "layers" holds the stack.
  """
  stacked = params.get("layers")
  if stacked is None:
    return params
  length = len(jax.tree.leaves(stacked)[0])
  blocks = [
    jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(length)
  ]
  return {**params, "layers": blocks}


def around_blocks(encoder: nn.Module, params: Params) -> Any:
  """Returns an encoder bound to the parameters outside its blocks."""
  around = {k: v for k, v in params.items() if k not in _BLOCKS}
  return encoder.bind({"params": around})


def states(
  encoder: nn.Module, params: Params, batch: Batch
) -> list[Float[Array, "B T D"]]:
  """Computes the states of `Encoder.hidden_states`, without dropout.

  Args:
    encoder: an `encoder.Encoder`.
    params: its parameters as `unstack` returns them.
    batch: token rows.
  """
  bound = around_blocks(encoder, params)
  x, shared = bound.enter(batch, True)
  blocks = [(bound.first, params["first"])] if "first" in params else []
  # All but the first are built alike.
  blocks += [(bound.last, own) for own in params.get("layers", ())]
  blocks.append((bound.last, params["last"]))
  outputs = [x]
  for (block, own), kind in zip(blocks, bound.kinds(), strict=True):
    unbound = block.clone(parent=None, name=None)
    x = unbound.apply({"params": own}, outputs[-1], Context(shared, kind))
    outputs.append(x)
  return [*outputs[:-1], bound.leave(outputs[-1])]


def last_state(
  encoder: nn.Module, params: Params, batch: Batch
) -> Float[Array, "B T D"]:
  """Computes the output of the model: the last of `states`."""
  return states(encoder, params, batch)[-1]
