"""Multi-head attention inside documents, the fastest way on each backend.

  no mesh      `attention_dense`: the definition
  CPU          `attention_tiled`: tiles of scores that stay in the cache
  TPU          `attention_kernels`: JAX's flash attention, where documents alone
               decide what is seen and nothing is dropped
  NVIDIA GPU   `attention_kernels`: cuDNN's, in 16 bits, for any mask
  otherwise    `attention_tiled`: larger tiles

All but the definition avoid holding the T x T scores of all rows and heads at
once. For the gradient all of them keep the operands only.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from time_jax.core.arrays import Qkv
from time_jax.models import attention_kernels
from time_jax.models.attention_dense import attend_dense
from time_jax.models.attention_operands import Mask, Operands, Settings
from time_jax.models.attention_tiled import attend_tiled
from time_jax.models.dropout import AttentionDropout
from time_jax.parallel import sharding

# Scores of a tile on a CPU at most: they should stay in the cache. Two heads of
# 512 tokens fit.
_TILE = 2**19
# On an accelerator: 64 MiB in float32, some rows of 512 tokens. A quarter of it
# saves no memory in the step of a student.
_LARGE_TILE = 2**24

Attend = Callable[[Settings, Operands], Array]


def attend(
  qkv: Qkv,
  mask: Mask,
  *,
  num_heads: int,
  num_key_heads: int | None = None,
  scale: float | None = None,
  bias: Float[Array, "b n T T"] | None = None,
  dropout: AttentionDropout | None = None,
) -> Float[Array, "B T D"]:
  r"""Computes multi-head attention, with the softmax in float32.

  .. math::
    \mathrm{softmax}(\mathit{scale}\; q k^\top + \mathit{bias})\, v

  Args:
    qkv: projections before the split into heads.
    mask: which keys a query sees.
    num_heads: N.
    num_key_heads: heads of key and value, each shared by N / num_key_heads
      heads of the queries in a row; N if absent.
    scale: factor of the dot products; 1 / sqrt(H) if absent.
    bias: added to the scaled scores; b is B or 1, n is N or 1.
    dropout: on the probabilities; None for none.
  """
  query = qkv.query
  settings = Settings(
    num_heads=num_heads,
    num_key_heads=num_key_heads or num_heads,
    scale=(query.shape[-1] // num_heads) ** -0.5 if scale is None else scale,
    dropout_rate=dropout.rate if dropout else 0.0,
  )
  if bias is not None:
    shape = (bias.shape[0], num_heads, *bias.shape[2:])
    bias = jnp.broadcast_to(bias, shape)
  operands = Operands(
    qkv=qkv,
    rows=sharding.row_numbers(query.shape[0]),
    heads=jnp.arange(num_heads),
    matrix=mask.matrix,
    segment_ids=mask.segment_ids if mask.matrix is None else None,
    window=None if mask.window is None else jnp.asarray(mask.window),
    bias=bias,
    dropout_key=jax.random.key_data(dropout.rng)[:2] if dropout else None,
  )
  platform = _platform(jax.sharding.get_abstract_mesh())
  if platform == "any":
    # Computed again in the gradient: T x T matrices of all heads and layers,
    # kept until then, would be most of what a training step holds.
    return jax.checkpoint(functools.partial(attend_dense, settings))(operands)
  if platform == "tpu" and _fits_flash(mask, operands):
    operands = operands._replace(matrix=None, segment_ids=mask.segment_ids)
    return _on_each_device(_attend_flash, settings, operands)
  if platform == "cuda" and attention_kernels.fits_cudnn(settings, operands):
    return _on_each_device(attention_kernels.attend_cudnn, settings, operands)
  tile = _TILE if platform == "cpu" else _LARGE_TILE
  tiled = functools.partial(attend_tiled, tile)
  return _on_each_device(tiled, settings, operands)


def _platform(mesh: Any) -> str:
  """Returns the platform that the program is traced for, as the mesh says.

  JAX is not asked: that would start its backend, perhaps before the processes
  of a run have joined. Without a mesh it is "any", which gets the definition.
  """
  device = None if mesh.empty else mesh.abstract_device
  if device and device.device_kind.startswith("NVIDIA"):
    return "cuda"
  return device.platform if device else "any"


def _fits_flash(mask: Mask, operands: Operands) -> bool:
  """Returns whether the kernel computes this call, or a branch of it."""
  length, window = operands.qkv.query.shape[1], mask.window
  return (
    operands.bias is None
    and operands.dropout_key is None
    and not (isinstance(window, int) and window < length)
    and length % attention_kernels.LANES == 0
  )


def _attend_flash(settings: Settings, operands: Operands) -> Array:
  """Takes the kernel where a window holds all, and tiles where it does not.

  Which it is may be known only as the program runs: blocks in a scan differ.
  """
  if operands.window is None:
    return attention_kernels.attend_flash(settings, operands)
  return jax.lax.cond(
    operands.window >= operands.qkv.query.shape[1],
    lambda: attention_kernels.attend_flash(settings, operands),
    lambda: attend_tiled(_LARGE_TILE, settings, operands),
  )


def _on_each_device(
  implementation: Attend, settings: Settings, operands: Operands
) -> Array:
  """Runs an implementation on each device's own rows and heads.

  Rows or heads that do not divide by the devices are on all of them.
  """
  call = functools.partial(implementation, settings)
  mesh = sharding.automatic_mesh()
  if mesh is None:
    return call(operands)
  count = operands.qkv.query.shape[0]
  common = math.gcd(settings.num_heads, settings.num_key_heads)
  rows, _ = sharding.split_evenly(mesh, "batch", count)
  heads, _ = sharding.split_evenly(mesh, "heads", common)
  one_bias = operands.bias is not None and len(operands.bias) == 1
  projection: Any = P(rows, None, heads)
  specs = Operands(
    qkv=Qkv(projection, projection, projection),
    rows=P(rows),
    heads=P(heads),
    matrix=P(rows),
    segment_ids=P(rows),
    window=P(),
    bias=P(None if one_bias else rows, heads),
    dropout_key=P(),
  )
  pairs = zip(operands, specs, strict=True)
  specs = Operands(*(None if x is None else spec for x, spec in pairs))
  return jax.shard_map(
    call, in_specs=(specs,), out_specs=projection, check_vma=False
  )(operands)
