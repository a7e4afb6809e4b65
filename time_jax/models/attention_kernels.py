"""Attention by fused kernels: flash attention on a TPU, cuDNN on a GPU."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from time_jax.models.attention_operands import Operands, Settings, split_heads

LANES = 128  # of a TPU's vector unit; the length of a row must be a multiple


def attend_flash(
  settings: Settings, operands: Operands
) -> Float[Array, "B T D"]:
  """Computes attention inside documents by JAX's TPU kernel.

  It goes by blocks of up to 512 tokens. Bias, dropout and a window are not
  looked at.
  """
  # What the kernel is written in takes a while to import.
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  qkv, ids = operands.qkv, operands.segment_ids
  head_dim = qkv.query.shape[-1] // len(operands.heads)

  def split(x: Float[Array, "B T D"], repeats: int) -> Float[Array, "B N T H"]:
    x_BNTH = split_heads(x, x.shape[-1] // head_dim).swapaxes(1, 2)
    return jnp.repeat(x_BNTH, repeats, axis=1)

  length = qkv.query.shape[1]
  block = max(b for b in (128, 256, 512) if length % b == 0)
  sizes = {f.name: block for f in dataclasses.fields(flash.BlockSizes)}
  mixed_BNTH = flash.flash_attention(
    split(qkv.query, 1),
    split(qkv.key, settings.sharing),
    split(qkv.value, settings.sharing),
    segment_ids=flash.SegmentIds(q=ids, kv=ids),
    sm_scale=settings.scale,
    block_sizes=flash.BlockSizes(**sizes | {"block_b": 1}),
  )
  return mixed_BNTH.swapaxes(1, 2).reshape(qkv.query.shape)


def fits_cudnn(settings: Settings, operands: Operands) -> bool:
  """Returns whether `attend_cudnn` takes these operands."""
  query = operands.qkv.query
  head_dim = query.shape[-1] // settings.num_heads
  return (
    operands.bias is None
    and operands.dropout_key is None
    and query.dtype in (jnp.bfloat16, jnp.float16)
    and query.shape[1] % 2 == 0
    and head_dim % 8 == 0
    and head_dim <= 128
  )


def attend_cudnn(
  settings: Settings, operands: Operands, implementation: Any = "cudnn"
) -> Float[Array, "B T D"]:
  """Computes attention by cuDNN.

  Args:
    settings: of the whole call.
    operands: see `fits_cudnn`.
    implementation: "xla" makes the same call on any backend.
  """
  qkv = operands.qkv
  head_dim = qkv.query.shape[-1] // len(operands.heads)
  mixed_BTNH = jax.nn.dot_product_attention(
    *(
      split_heads(x, x.shape[-1] // head_dim)
      for x in (qkv.query, qkv.key, qkv.value)
    ),
    mask=operands.whole_matrix(),
    scale=settings.scale,
    implementation=implementation,
  )
  return mixed_BTNH.reshape(qkv.query.shape)
