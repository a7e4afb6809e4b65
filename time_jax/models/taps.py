"""What several layers hand out, from one pass through an encoder.

Students may learn of different layers of one teacher. Each gets what a teacher
cut off at its own layer would hand out, and the blocks below run once for all.
"""

from collections.abc import Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from time_jax.core.arrays import Batch, Qkv, Targets
from time_jax.models import stepwise
from time_jax.models.encoder import Block, Context, Hidden, lay_out, unrolled
from time_jax.models.family import Params


def project(
  encoder: Any,
  params: Params,
  batch: Batch,
  layers: Collection[int],
  *,
  states: Collection[int] = (),
  rotated: bool = False,
) -> Targets:
  """Computes projections and hidden states of some layers, without dropout.

  Args:
    encoder: an `encoder.Encoder` that ends at the highest of the layers.
    params: its parameters; of its last block those that are needed.
    batch: token rows.
    layers: the layers whose projections are wanted, 1-based.
    states: the layers whose hidden states are wanted, 1-based.
    rotated: whether query and key are those after RoPE.
  """
  # What a block hands on is the input of the next one.
  above = {min(layer + 1, encoder.num_layers) for layer in states}
  wanted = sorted(above.union(layers))
  bound = stepwise.around_blocks(encoder, params)
  x, shared = bound.enter(batch, True)
  kinds, projections = bound.kinds(), {}
  found = _inputs(bound, params, lay_out(x), shared, wanted)
  inputs = dict(zip(wanted, found, strict=True))
  for layer in sorted(set(layers)):
    block, own = _block(bound, params, layer)
    projections[layer] = block.apply(
      {"params": own},
      inputs[layer],
      Context(shared, kinds[layer - 1]),
      method=_rotated if rotated else _plain,
    )
  outputs = {n: inputs[n + 1] for n in states if n < encoder.num_layers}
  if (top := encoder.num_layers) in states:
    block, own = _block(bound, params, top)
    x = _apply(block, own, inputs[top], Context(shared, kinds[-1]))
    outputs[top] = bound.top_state(x)
  return Targets(projections, outputs)


def _plain(block: Block, x: Hidden, context: Context) -> Qkv:
  del context
  return block.project(x)


def _rotated(block: Any, x: Hidden, context: Context) -> Qkv:
  return block.rotate(block.project(x), context)


def _inputs(
  bound: Any, params: Params, x: Hidden, shared: Any, wanted: Sequence[int]
) -> list[Hidden]:
  """Returns the inputs of blocks, the last of which is the encoder's last.

  Args:
    bound: the encoder with the parameters around its blocks.
    params: all parameters.
    x: input of block 1.
    shared: what every block takes.
    wanted: numbers of the blocks, ascending.
  """
  kinds, number = bound.kinds(), 1
  inputs = {1: x}
  if "first" in params:
    block, own = _block(bound, params, 1)
    x = lay_out(_apply(block, own, x, Context(shared, kinds[0])))
    inputs[2] = x
    number = 2
  if "layers" in params:
    numbers = np.arange(number, bound.num_layers)
    # A block notes its input for the next wanted block, itself or above, so
    # that what stays is that block's own. Were all inputs kept, as those of a
    # scan usually are, they would take the memory of all blocks.
    slots = np.searchsorted(wanted, numbers)
    axes = (None, "batch", "length", "hidden")
    block = bound.last.clone(parent=None, name=None)

    def step(carry: Any, scanned: Any) -> tuple[Any, None]:
      x, noted = carry
      own, kind, slot = scanned
      noted = lax.dynamic_update_index_in_dim(noted, x, slot, 0)
      noted = nn.with_logical_constraint(noted, axes)
      x = _apply(block, own, x, Context(shared, kind))
      return (lay_out(x), noted), None

    (x, noted), _ = lax.scan(
      step,
      (x, jnp.zeros((len(wanted), *x.shape), x.dtype)),
      (params["layers"], kinds[number - 1 : -1], slots),
      unroll=unrolled(len(numbers)),
    )
    inputs |= {n: noted[i] for i, n in enumerate(wanted) if n in numbers}
  return [(inputs | {bound.num_layers: x})[n] for n in wanted]


def _apply(block: Any, params: Params, x: Hidden, context: Context) -> Hidden:
  return block.apply({"params": params}, x, context)


def _block(bound: Any, params: Params, layer: int) -> tuple[Block, Params]:
  """Returns a block, unbound, and its parameters."""
  name, own = "last", params["last"]
  if layer == 1 and "first" in params:
    name, own = "first", params["first"]
  elif layer < bound.num_layers:  # The stack ends before the last block.
    place = layer - bound.num_layers
    own = jax.tree.map(lambda leaf: leaf[place], params["layers"])
  return getattr(bound, name).clone(parent=None, name=None), own
