"""`one_pass` as GPU kernels: two launches for all rows and heads.

A program takes a block of 64 tokens of one relation head of one row. The first
kernel finds the row statistics by an online softmax over blocks of keys. The
second gives the block its gradient, once as queries and once as keys, so that
no two programs add to the same numbers: no atomics, the same bits every time.
A relation of a projection with itself has symmetric logits, and one product
serves both. Memory is four numbers a row of logits, never a T x S matrix.

Written for Pallas on Triton, which jax 0.10 takes for GPUs by itself and which
jax 0.11 deprecates (Pallas changelog, July 2026). Pallas on Mosaic GPU is to
outlive it, but multiplies on Hopper from swizzled shared memory and float32 in
TF32 only: not to be written unseen. Where Triton is gone, `available` is False
and "auto" takes `one_pass`.

bfloat16 projections are multiplied as they are and accumulated in float32,
float32 ones in float32; the bounds are those of `pallas_tpu`. What was done:
equal to the dense loss in interpret mode; lowered for CUDA, compiled to PTX
for sm_90a by the compiler in jax-cuda13-pjrt 0.10.2 and assembled by ptxas
13.5, for a projection with itself without register spills, on a machine
without a GPU. Not run on a GPU by us, so its speed is unknown.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from time_jax.core.arrays import MASKED, same_document
from time_jax.relations.custom_vjp import Inputs, KlAndGrad
from time_jax.relations.pallas_common import LOG2_E, Ref, dot

try:
  from jax.experimental.pallas import triton
except ImportError:
  triton = None

BLOCK = 64  # tokens
NARROWEST = 16  # C that a tensor core multiplies
WIDEST = 128  # bytes of a token of a head; wider ones overflow the registers


def available() -> bool:
  """Returns whether this version of JAX has Pallas on Triton."""
  return triton is not None


def fits(inputs: Inputs, num_heads: int) -> bool:
  """Returns whether the kernels take these projections."""
  return available() and all(
    x.dtype in (jnp.float32, jnp.bfloat16)
    and x.shape[2] // num_heads * x.dtype.itemsize <= WIDEST
    for x in (*inputs.teacher, *inputs.student)
  )


def kl_and_grad(
  inputs: Inputs, *, num_heads: int, interpret: bool = False
) -> KlAndGrad:
  """Computes KL and gradient, see `custom_vjp.Implementation`.

  Args:
    inputs: projections of the rows.
    num_heads: R, a divisor of both widths.
    interpret: runs the kernel as plain JAX, on any backend, for tests.
  """
  teacher, student, segment_ids, query_weights = inputs
  rows, length = segment_ids.shape
  count = -(-length // BLOCK)
  padding = count * BLOCK - length
  segments, w = (
    jnp.pad(x, ((0, 0), (0, padding))) for x in (segment_ids, query_weights)
  )
  heads = [_to_heads(x, num_heads, padding) for x in (*teacher, *student)]
  student_heads = heads[len(teacher) :]
  per_query = jax.ShapeDtypeStruct((rows, num_heads, w.shape[1]), w.dtype)
  call = functools.partial(
    pl.pallas_call,
    # The block varies fastest, so that a head's programs share its operands.
    grid=(count, num_heads, rows),
    compiler_params=_compiler_params(heads),
    interpret=interpret,
  )
  bind = dict(
    count=count,
    scales=[(x[0].shape[-1] // num_heads) ** -0.5 for x in (teacher, student)],
  )
  statistics = call(
    functools.partial(_statistics_kernel, **bind),
    in_specs=[_row(segments), *map(_head, heads)],
    out_specs=[_row_block] * 4,
    out_shape=[per_query] * 4,
    name="relation_statistics",
  )(segments, *heads)
  kl, *grads = call(
    functools.partial(_gradient_kernel, **bind),
    in_specs=[_row(segments), _row(w), *map(_head, (*statistics, *heads))],
    out_specs=[_row_block, *map(_head_block, student_heads)],
    out_shape=[
      per_query,
      *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in student_heads),
    ],
    name="relation_gradient",
  )(segments, w, *statistics, *heads)
  grads = [_from_heads(g, x) for g, x in zip(grads, student, strict=True)]
  return jnp.sum(kl, axis=(1, 2)), tuple(grads)


def _compiler_params(heads: Sequence[Array]) -> Any:
  if triton is None:
    return None
  # Without tensor cores float32 needs the registers of twice as many threads.
  narrow = all(x.dtype == jnp.bfloat16 for x in heads)
  return triton.CompilerParams(num_warps=4 if narrow else 8, num_stages=2)


def _to_heads(
  x: Float[Array, "B T D"], num_heads: int, padding: int
) -> Float[Array, "B R P C"]:
  x_BRTC = x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)
  width = x_BRTC.shape[-1]
  missing = max(pl.next_power_of_2(width), NARROWEST) - width
  return jnp.pad(x_BRTC, ((0, 0), (0, 0), (0, padding), (0, missing)))


def _from_heads(
  grad: Float[Array, "B R P C"], like: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
  _, length, width = like.shape
  grad_BRTC = grad[:, :, :length, : width // grad.shape[1]]
  return grad_BRTC.transpose(0, 2, 1, 3).reshape(like.shape)


def _row(x: Array) -> pl.BlockSpec:
  return pl.BlockSpec((None, x.shape[1]), lambda i, r, b: (b, 0))


def _head(x: Array) -> pl.BlockSpec:
  rest = x.shape[2:]
  return pl.BlockSpec(
    (None, None, *rest), lambda i, r, b: (b, r, *(0 for _ in rest))
  )


def _head_block(x: Array) -> pl.BlockSpec:
  return pl.BlockSpec(
    (None, None, BLOCK, x.shape[-1]), lambda i, r, b: (b, r, i, 0)
  )


_row_block = pl.BlockSpec((None, None, BLOCK), lambda i, r, b: (b, r, i))


def _statistics_kernel(
  segments: Ref, *refs: Ref, count: int, scales: Sequence[float]
) -> None:
  n = (len(refs) - 4) // 2
  pairs = [(refs[0], refs[n - 1]), (refs[n], refs[2 * n - 1])]
  here = _block(pl.program_id(0))
  mine = segments[here]

  def more(j: Array, carry: tuple) -> tuple:
    there = _block(j)
    mask_TS = same_document(mine[:, None], segments[there][None])
    return tuple(
      _online(_logits(x[here], y[there], scale, mask_TS), *so_far)
      for (x, y), scale, so_far in zip(pairs, scales, carry, strict=True)
    )

  wide = refs[-1].dtype
  start = jnp.full(BLOCK, MASKED, wide), jnp.zeros(BLOCK, wide)
  of_t, of_s = lax.fori_loop(0, count, more, (start, start))
  for i, (highest, total) in enumerate((of_t, of_s)):
    # Stored apart: their sum would lose digits that saturated rows need.
    refs[2 * i - 4][...] = highest
    refs[2 * i - 3][...] = jnp.log2(total)


def _gradient_kernel(
  segments: Ref,
  weights: Ref,
  *refs: Ref,
  count: int,
  scales: Sequence[float],
) -> None:
  of_t, of_s, refs = refs[:2], refs[2:4], refs[4:]
  n = (len(refs) - 1) // 3
  teacher, student = refs[:n], refs[n : 2 * n]
  kl, *grads = refs[2 * n :]
  here = _block(pl.program_id(0))
  mine, w = segments[here], weights[here]
  rows_t, rows_s = ([ref[here][:, None] for ref in x] for x in (of_t, of_s))

  def logits(a: int, b: int, there: Any, mask_TS: Array) -> list[Array]:
    return [
      _logits(pair[a][here], pair[b][there], scale, mask_TS)
      for pair, scale in zip((teacher, student), scales, strict=True)
    ]

  def more(j: Array, carry: tuple) -> tuple:
    kl_T, *totals = carry
    there = _block(j)
    mask_TS = same_document(mine[:, None], segments[there][None])
    # My tokens as queries of those keys,
    t, s = logits(0, -1, there, mask_TS)
    log_p, log_q = _log_softmax(t, *rows_t), _log_softmax(s, *rows_s)
    p, q = jnp.exp2(log_p), jnp.exp2(log_q)
    kl_T += jnp.sum(p * (log_p - log_q), axis=1)
    d_TS = (q - p) * w[:, None]
    # and as keys of those queries; [here, there] again.
    if n > 1:
      t, s = logits(-1, 0, there, mask_TS)
    p = jnp.exp2(_log_softmax(t, *(ref[there][None] for ref in of_t)))
    q = jnp.exp2(_log_softmax(s, *(ref[there][None] for ref in of_s)))
    e_TS = (q - p) * weights[there][None]
    parts = [(d_TS, -1), (e_TS, 0)] if n > 1 else [(d_TS + e_TS, 0)]
    for i, (part, other) in enumerate(parts):
      operand = student[other][there]
      part = (part * scales[1]).astype(operand.dtype)
      totals[i] += dot(part, operand, 1, 0)
    return kl_T, *totals

  start = [jnp.zeros((BLOCK, x.shape[-1]), kl.dtype) for x in student]
  kl_T, *totals = lax.fori_loop(
    0, count, more, (jnp.zeros(BLOCK, kl.dtype), *start)
  )
  kl[...] = kl_T * (w / LOG2_E)
  for grad, total in zip(grads, totals, strict=True):
    grad[...] = total.astype(grad.dtype)


def _block(i: int | Array) -> Any:
  return pl.ds(i * BLOCK, BLOCK)


def _logits(x: Array, y: Array, scale: float, mask_TS: Array) -> Array:
  return jnp.where(mask_TS, dot(x, y, 1, 1) * (scale * LOG2_E), MASKED)


def _log_softmax(logits_TS: Array, highest: Array, log_total: Array) -> Array:
  return (logits_TS - highest) - log_total


def _online(logits_TS: Array, highest: Array, total: Array) -> tuple:
  """Adds keys to a maximum and a sum of 2^(logit - maximum)."""
  higher = jnp.maximum(highest, jnp.max(logits_TS, axis=1))
  total *= jnp.exp2(highest - higher)
  total += jnp.sum(jnp.exp2(logits_TS - higher[:, None]), axis=1)
  return higher, total
