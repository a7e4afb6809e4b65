r"""Loss and gradient of the relation KL in one sweep over small tiles.

The teacher is frozen and the student's gradient is known in closed form, so
both come out of the same tile and no T x S matrix outlives it. For one head,
with teacher logits t, student logits s, P = softmax(t), Q = softmax(s):

.. math::
  \mathrm{KL}_i = \sum_j P_{ij}(t_{ij} - s_{ij}) - \mathrm{lse}_i(t)
                  + \mathrm{lse}_i(s)

.. math::
  D_{ij} = w_i (Q - P)_{ij}, \qquad
  \partial x = D\, y / \sqrt{C}, \qquad \partial y = D^\top x / \sqrt{C}

Plain JAX, for any backend; the Pallas kernels beside it do the same in a
single launch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from time_jax.arrays import Ids
from time_jax.relations.dense import MASKED
from time_jax.relations.sweep import Operands

# Logits in a tile: all keys of a row times some of its queries, a quarter of a
# megabyte in float32, so that what a tile needs stays in a core's second-level
# cache; fewer queries than a few vector registers hold waste them. Tried on
# two AVX-512 cores: whole rows, all rows of a head and 2 ... 4 times as much
# were slower at S = 512 ... 4096. Keys first, softmax and products vectorise
# over queries; a tile with queries first took half as long again.
TILE = 2**16
FEWEST = 32


def sweep(
  teacher: Operands,
  student: Operands,
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
) -> tuple[Float[Array, " B"], Operands]:
  """The weighted KL of every row and its gradient; see `sweep.Sweep`.

  A CPU takes one row at a time, which stays in its cache; where a program is
  a series of launches, all rows of a head go into one tile.
  """
  rows = segment_ids.shape[0]
  run = functools.partial(_sweep, num_heads=num_heads)
  return lax.platform_dependent(
    teacher,
    student,
    segment_ids,
    query_weights,
    cpu=functools.partial(run, rows_at_once=1),
    default=functools.partial(run, rows_at_once=rows),
  )


def _sweep(
  teacher: Operands,
  student: Operands,
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
  rows_at_once: int,
) -> tuple[Float[Array, " B"], Operands]:
  def step(
    carry: tuple[Array, Operands], index: Array
  ) -> tuple[tuple[Array, Operands], None]:
    kl_B, grads = carry
    row, head = index // num_heads * rows_at_once, index % num_heads
    take = functools.partial(
      lax.dynamic_slice_in_dim, start_index=row, slice_size=rows_at_once
    )

    def take_head(x: Float[Array, "B T D"]) -> Float[Array, "G C T"]:
      width = x.shape[-1] // num_heads
      part = lax.dynamic_slice_in_dim(take(x), head * width, width, axis=2)
      return part.swapaxes(1, 2)

    parts = jax.tree.map(take_head, (teacher, student))
    kl, found = _each(_one_head, rows_at_once)(
      *parts, take(segment_ids), take(query_weights)
    )
    kl_B = lax.dynamic_update_slice_in_dim(kl_B, take(kl_B) + kl, row, axis=0)
    grads = tuple(
      lax.dynamic_update_slice(
        whole, part.swapaxes(1, 2), (row, 0, head * part.shape[1])
      )
      for whole, part in zip(grads, found, strict=True)
    )
    return (kl_B, grads), None

  rows = segment_ids.shape[0]
  start = (
    jnp.zeros(rows, query_weights.dtype),
    jax.tree.map(jnp.zeros_like, student),
  )
  steps = jnp.arange(rows // rows_at_once * num_heads)
  found, _ = lax.scan(step, start, steps)
  return found


def _each(
  function: Callable[..., Any], rows_at_once: int
) -> Callable[..., Any]:
  """Maps over rows; a lone one without that axis, which costs XLA twice."""
  if rows_at_once > 1:
    return jax.vmap(function)

  def alone(*args: Any) -> Any:
    found = function(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: x[None], found)

  return alone


def _one_head(
  teacher: Operands,
  student: Operands,
  segments: Int[Array, " T"],
  w: Float[Array, " T"],
) -> tuple[Float[Array, ""], Operands]:
  """KL and gradient of one head of one row, its operands [C, T]."""
  length = segments.shape[0]
  count = -(-length // max(TILE // length, FEWEST))
  block = -(-length // count)
  # Otherwise XLA computes these slices anew for every element that uses them.
  teacher, student, segments, w = lax.optimization_barrier(
    (teacher, student, segments, w)
  )
  keys = jnp.where(segments > 0, segments, -1)
  padded = jax.tree.map(
    lambda x: _pad(x, count * block), (teacher[0], student[0], segments, w)
  )

  def one_block(grad_y: Array, start: Array) -> tuple[Array, Any]:
    xt, xs, segments, w = lax.optimization_barrier(
      jax.tree.map(
        lambda x: lax.dynamic_slice_in_dim(x, start, block, axis=-1), padded
      )
    )
    mask_ST = keys[:, None] == segments[None]
    t, s = _logits(xt, teacher[-1], mask_ST), _logits(xs, student[-1], mask_ST)
    kl, d_ST = _tile(t, s, w, xs.shape[0] ** -0.5)
    d_ST = d_ST.astype(xs.dtype)
    grad_y += _dot("CT,ST->CS", xs, d_ST)
    return grad_y, (kl, _dot("CS,ST->CT", student[-1], d_ST))

  zeros = jnp.zeros(student[-1].shape, w.dtype)
  starts = jnp.arange(count) * block
  grad_y, (kl, grad_x) = lax.scan(one_block, zeros, starts)
  grad_x = grad_x.swapaxes(0, 1).reshape(zeros.shape[0], -1)[:, :length]
  grads = (grad_x, grad_y) if len(student) > 1 else (grad_x + grad_y,)
  return jnp.sum(kl), tuple(g.astype(student[0].dtype) for g in grads)


def _tile(
  t: Float[Array, "S T"],
  s: Float[Array, "S T"],
  w: Float[Array, " T"],
  scale: float,
) -> tuple[Float[Array, ""], Float[Array, "S T"]]:
  """Weighted KL of some queries, and its derivative by the products x y."""
  t -= jnp.max(t, axis=0)[None]
  s -= jnp.max(s, axis=0)[None]
  exp_t, exp_s = jnp.exp(t), jnp.exp(s)
  sum_t, sum_s = jnp.sum(exp_t, axis=0), jnp.sum(exp_s, axis=0)
  kl_T = jnp.sum(exp_t * (t - s), axis=0) / sum_t + jnp.log(sum_s / sum_t)
  v = w * scale
  d_ST = exp_s * (v / sum_s)[None] - exp_t * (v / sum_t)[None]
  return jnp.sum(kl_T * w), d_ST


def _logits(
  x: Float[Array, "C T"], y: Float[Array, "C S"], mask_ST: Array
) -> Float[Array, "S T"]:
  logits = _dot("CS,CT->ST", y, x) * x.shape[0] ** -0.5
  return jnp.where(mask_ST, logits, MASKED)


def _dot(equation: str, a: Array, b: Array) -> Array:
  # Softmax and sums need float32 whatever the projections are.
  wide = jnp.promote_types(a.dtype, jnp.float32)
  return jnp.einsum(equation, a, b, preferred_element_type=wide)


def _pad(x: Array, length: int) -> Array:
  """Queries of no document, so that all blocks are of one size."""
  widths = [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])]
  return jnp.pad(x, widths)
