"""An encoder with its blocks one by one, as it is used once it is trained.

Training scans over stacked parameters, which compiles in the time of one block.
On a CPU each turn of that loop copies the block's parameters out of the stack;
with a sentence at a time that takes as long as much of the block itself.
"""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch
from time_jax.models.family import Params

_BLOCKS = ("first", "layers", "last")


def unstack(params: Params) -> Params:
  """The same parameters, those of the stack `layers` in a list of blocks.

  Args:
    params: of an `encoder.Encoder`.
  """
  stacked = params.get("layers")
  if stacked is None:
    return params
  length = len(jax.tree.leaves(stacked)[0])
  blocks = [
    jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(length)
  ]
  return {**params, "layers": blocks}


def states(
  encoder: nn.Module, params: Params, batch: Batch
) -> list[Float[Array, "B T D"]]:
  """Those of `hidden_states(batch)`, without dropout.

  Args:
    encoder: an `encoder.Encoder`.
    params: of it, see `unstack`.
    batch: token rows.
  """
  around = {k: v for k, v in params.items() if k not in _BLOCKS}
  bound: Any = encoder.bind({"params": around})
  x, shared = bound.enter(batch, True)
  blocks = [(bound.first, params["first"])] if "first" in params else []
  # All but the first are built alike.
  blocks += [(bound.last, own) for own in params.get("layers", ())]
  blocks.append((bound.last, params["last"]))
  found = [x]
  for (block, own), kind in zip(blocks, bound.kinds(), strict=True):
    unbound = block.clone(parent=None, name=None)
    found.append(unbound.apply({"params": own}, found[-1], kind, shared, True))
  return [*found[:-1], bound.leave(found[-1])]


def last_state(
  encoder: nn.Module, params: Params, batch: Batch
) -> Float[Array, "B T D"]:
  """What the model hands on: the last of `states`."""
  return states(encoder, params, batch)[-1]
