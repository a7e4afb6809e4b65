"""`one_pass` as a TPU kernel: one launch for all rows and heads.

A program of the grid takes one relation head of one row. Its projections lie
in fast memory as [C, T], the tokens along the lanes, so that C = 6 fills as
much of a register as C = 64 does; a tile of logits is [S, T], keys first,
which makes softmax a reduction over sublanes. Up to 512 tokens are one tile.
Longer rows take two passes over blocks of 512: row statistics by an online
softmax, then KL and gradients. No T x S matrix ever leaves the tile.

bfloat16 projections are multiplied as they are and accumulated in float32,
float32 ones at the highest precision. Measured in interpret mode against the
dense loss in float32 on the same rounded projections, T = 64 ... 1100, logits
of size 1 and 1000: values within 5e-7, gradients of one row within 0.5 % of the
largest and 0.3 % in norm, of several rows within 0.7 % and 0.35 %: the rounding
of bfloat16, on a mesh to the last bit that of one device.
With float32 projections values agree to 1e-5 and gradients to 1e-4.

Compiled for v5e and v6e by the compiler that jax[tpu] pins, on a machine
without a TPU: S = 512 ... 8192, no temporary of T x S. Not run on a TPU by us.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from time_jax.core.arrays import MASKED, without_padding
from time_jax.relations.custom_vjp import Inputs, KlAndGrad
from time_jax.relations.pallas_common import LOG2_E, Ref, dot

LANES, SUBLANES = 128, 8
BLOCK = 512  # smaller tiles compile to more instructions an element
LONGEST = 8192  # tokens of a row
WIDEST = 128  # C


def fits(inputs: Inputs, num_heads: int) -> bool:
  """Returns whether the kernel takes these projections."""
  return all(
    x.dtype in (jnp.float32, jnp.bfloat16)
    and x.shape[1] <= LONGEST
    and x.shape[2] // num_heads <= WIDEST
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
  block = -(-length // (count * LANES)) * LANES
  padding = count * block - length
  # As MASKED and weight 0: no document, so no gradient.
  per_token = [
    jnp.pad(x, ((0, 0), (0, padding)))[:, None]
    for x in (segment_ids, query_weights)
  ]
  heads = [_to_heads(x, num_heads, padding) for x in (*teacher, *student)]
  token_spec = pl.BlockSpec((None, 1, count * block), lambda b, r: (b, 0, 0))
  wide = query_weights.dtype
  student_heads = heads[len(teacher) :]
  kl, *grads = pl.pallas_call(
    functools.partial(
      _kernel,
      count=count,
      block=block,
      scales=[
        (x[0].shape[-1] // num_heads) ** -0.5 for x in (teacher, student)
      ],
    ),
    grid=(rows, num_heads),
    in_specs=[token_spec, token_spec, *map(_head_spec, heads)],
    out_specs=[token_spec, *map(_head_spec, student_heads)],
    out_shape=[
      jax.ShapeDtypeStruct(per_token[1].shape, wide),
      *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in student_heads),
    ],
    scratch_shapes=[pltpu.VMEM(x.shape[2:], wide) for x in student_heads],
    # A row's KL adds up over its heads, so these are taken in turn.
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"),
      vmem_limit_bytes=_fast_memory(heads, student_heads, block),
    ),
    interpret=interpret,
    name="relation_kl",
  )(*per_token, *heads)
  grads = [_from_heads(g, x) for g, x in zip(grads, student, strict=True)]
  return jnp.sum(kl, axis=(1, 2)), tuple(grads)


def _to_heads(
  x: Float[Array, "B T D"], num_heads: int, padding: int
) -> Float[Array, "B R C P"]:
  x_BRCT = x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 3, 1)
  sublanes = SUBLANES * 4 // x.dtype.itemsize
  missing = -x_BRCT.shape[2] % sublanes
  return jnp.pad(x_BRCT, ((0, 0), (0, 0), (0, missing), (0, padding)))


def _from_heads(
  grad: Float[Array, "B R C P"], like: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
  _, length, width = like.shape
  grad_BRCT = grad[:, :, : width // grad.shape[1], :length]
  return grad_BRCT.transpose(0, 3, 1, 2).reshape(like.shape)


def _head_spec(x: Float[Array, "B R C P"]) -> pl.BlockSpec:
  return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, r: (b, r, 0, 0))


def _fast_memory(
  heads: list[Array], student_heads: list[Array], block: int
) -> int:
  """Counts bytes: operands and results twice, for prefetching, and tiles."""
  moving = sum(
    math.prod(x.shape[2:]) * x.dtype.itemsize for x in heads + student_heads
  )
  kept = sum(math.prod(x.shape[2:]) * 4 for x in student_heads)
  return max(2 * moving + kept + 10 * block * block * 4, 16 * 2**20)


def _kernel(
  segments: Ref,
  weights: Ref,
  *refs: Ref,
  count: int,
  block: int,
  scales: Sequence[float],
) -> None:
  n = (len(refs) - 1) // 4
  teacher, student, kl, grads, totals = (
    refs[:n],
    refs[n : 2 * n],
    refs[2 * n],
    refs[2 * n + 1 : 3 * n + 1],
    refs[3 * n + 1 :],
  )

  def at(i: int | Array) -> pl.Slice | slice:
    if isinstance(i, int):
      return pl.ds(i * block, block)
    return pl.ds(pl.multiple_of(i * block, LANES), block)

  def logits(i: int | Array, j: int | Array) -> list[Array]:
    keys = without_padding(segments[:, at(j)])
    mask_ST = jnp.transpose(keys) == segments[:, at(i)]
    return [
      jnp.where(
        mask_ST,
        dot(y_ref[:, at(j)], x_ref[:, at(i)], 0, 0) * (scale * LOG2_E),
        MASKED,
      )
      for (x_ref, y_ref), scale in zip(
        ((teacher[0], teacher[-1]), (student[0], student[-1])),
        scales,
        strict=True,
      )
    ]

  def add(
    i: int | Array,
    j: int | Array,
    t: Array,
    s: Array,
    of_t: tuple[Array, Array],
    of_s: tuple[Array, Array],
  ) -> None:
    """Adds what queries i and keys j contribute, given the row statistics."""
    p, lse_t = _softmax(t, *of_t)
    q, lse_s = _softmax(s, *of_s)
    w = weights[:, at(i)]
    kl_T = jnp.sum(p * ((t - s) + (lse_s - lse_t)), axis=0, keepdims=True)
    kl[:, at(i)] += kl_T * (w / LOG2_E)
    x, y = student[0][:, at(i)], student[-1][:, at(j)]
    d_ST = ((q - p) * (w * scales[1])).astype(x.dtype)
    totals[0][:, at(i)] += dot(y, d_ST, 1, 0)
    totals[-1][:, at(j)] += dot(x, d_ST, 1, 1)

  @pl.when(pl.program_id(1) == 0)
  def _() -> None:
    kl[...] = jnp.zeros_like(kl)

  for total in totals:
    total[...] = jnp.zeros_like(total)
  if count == 1:
    t, s = logits(0, 0)
    add(0, 0, t, s, _statistics(t), _statistics(s))
  else:
    _for_all_blocks(count, logits, add)
  for grad, total in zip(grads, totals, strict=True):
    grad[...] = total[...].astype(grad.dtype)


def _for_all_blocks(
  count: int, logits: Callable[..., Any], add: Callable[..., None]
) -> None:
  """Computes row statistics by an online softmax, then the sums."""

  def queries(i: Array, _: None) -> None:
    def known(j: int | Array) -> tuple:
      t, s = logits(i, j)
      return _statistics(t), _statistics(s)

    def more(j: Array, before: tuple) -> tuple:
      return tuple(map(_join, before, known(j)))

    def sums(j: Array, _: None) -> None:
      add(i, j, *logits(i, j), *statistics)

    statistics = lax.fori_loop(1, count, more, known(0))
    lax.fori_loop(0, count, sums, None)

  lax.fori_loop(0, count, queries, None)


def _statistics(logits_ST: Array) -> tuple[Array, Array]:
  """Returns the maximum over the keys, and the sum of 2^(logit - maximum)."""
  highest = jnp.max(logits_ST, axis=0, keepdims=True)
  total = jnp.sum(jnp.exp2(logits_ST - highest), axis=0, keepdims=True)
  return highest, total


def _join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple:
  """Joins the statistics of two blocks of keys."""
  highest = jnp.maximum(a[0], b[0])
  return highest, sum(x[1] * jnp.exp2(x[0] - highest) for x in (a, b))


def _softmax(
  logits_ST: Array, highest: Array, total: Array
) -> tuple[Array, Array]:
  """Returns probabilities, and the log-sum-exp to base 2."""
  p_ST = jnp.exp2(logits_ST - highest) * (1 / total)
  return p_ST, highest + jnp.log2(total)
