r"""Loss and gradient of the relation KL in one pass over small tiles.

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

On a CPU the elementwise work is what costs. Where the logits of a head are
bounded, so that exp cannot overflow and no maximum has to be subtracted, the
only elementwise work is E = exp(t) and F = exp(s); the rest are products with
narrow matrices:

.. math::
  \textstyle\sum_j P_{ij} t_{ij} = \frac{x_i \cdot (E y)_i}{(E 1)_i \sqrt{C}},
  \quad
  \partial x_i = \frac{w_i}{\sqrt{C}}
    \left(\frac{(F y)_i}{(F 1)_i} - \frac{(E y)_i}{(E 1)_i}\right)

with the x and y of the teacher in the first and of the student in the second.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import MASKED, without_padding
from time_jax.relations.custom_vjp import Inputs, KlAndGrad, Operands

# Logits in a tile: all keys of a row times some of its queries, a quarter of a
# megabyte in float32, so that what a tile needs stays in a core's second-level
# cache; fewer queries than a few vector registers hold waste them. Tried on
# two AVX-512 cores: whole rows, all rows of a head and 2 ... 4 times as much
# were slower at S = 512 ... 4096. Keys first, softmax and products vectorise
# over queries; a tile with queries first took half as long again.
TILE = 2**16
FEWEST = 32
# The same without maxima: two cores were fastest with tiles of 512 x 512, two
# heads in an operation, and four such chains of operations side by side, so
# that a core finds work where one of them waits.
UNSHIFTED_TILE = 2**18
HEADS = 8
CHAIN = 2
# Tokens of a side of the squares of a symmetric tile. Eight or two squares a
# side of 512 took a sixth longer than four.
SQUARE = 128
# Logits within it: exp and sums of 2**30 keys are normal numbers of float32,
# and log-sum-exp is right to 1e-5.
BOUND = 64.0

# Multiply a matrix of keys [C, S] with exp of logits [S, T], and one of queries
# [C, T] with its transpose.
Products = tuple[Callable[[Array], Array], Callable[[Array], Array]]


class _Head(NamedTuple):
  """A head of a row; with a leading axis G on the projections, some heads.

  Attributes:
    teacher: one or two projections, [C, T] each.
    student: as many, with the student's C.
    segments: segment ids of the row, [T].
    w: weights of its queries, [T].
  """

  teacher: Any
  student: Any
  segments: Any
  w: Any


def kl_and_grad(inputs: Inputs, *, num_heads: int) -> KlAndGrad:
  """Computes KL and gradient, see `custom_vjp.Implementation`.

  A CPU takes one row at a time, which stays in its cache; where a program is
  a series of launches, all rows of a head go into one tile.
  """
  one_row = functools.partial(_one_row, num_heads)
  return lax.platform_dependent(
    inputs,
    cpu=functools.partial(
      lax.map, functools.partial(one_row, HEADS, _some_heads)
    ),
    default=jax.vmap(functools.partial(one_row, 1, _each_head)),
  )


def _one_row(
  num_heads: int,
  at_once: int,
  some_heads: Callable[[Array, _Head], KlAndGrad],
  row: Inputs,
) -> tuple[Float[Array, ""], Operands]:
  """Takes up to `at_once` heads of a row at a time."""
  teacher, student, segments, w = row
  at_once = math.gcd(num_heads, at_once)
  groups = num_heads // at_once

  def cut(x: Float[Array, "T D"], group: Array) -> Float[Array, "G C T"]:
    width = x.shape[1] // groups
    part = lax.dynamic_slice_in_dim(x, group * width, width, axis=1)
    return part.reshape(len(x), at_once, -1).transpose(1, 2, 0)

  def paste(x: Float[Array, "T D"], part: Array, group: Array) -> Array:
    part = part.transpose(2, 0, 1).reshape(len(x), -1)
    return lax.dynamic_update_slice_in_dim(
      x, part, group * part.shape[1], axis=1
    )

  # Heads are cut out in their turn: all at once they would be a copy of the
  # projections, and the only memory that grows with the length.
  def step(state: tuple[Array, Operands], group: Array) -> tuple[Any, None]:
    kl, grads = state
    projections = jax.tree.map(lambda x: cut(x, group), (teacher, student))
    largest = jnp.maximum(*map(_largest_logit, projections))
    kl_G, parts = some_heads(
      largest, _Head(*projections, segments=segments, w=w)
    )
    grads = jax.tree.map(lambda x, part: paste(x, part, group), grads, parts)
    return (kl + jnp.sum(kl_G), grads), None

  zeros = jnp.zeros((), w.dtype), jax.tree.map(jnp.zeros_like, student)
  (kl, grads), _ = lax.scan(step, zeros, jnp.arange(groups))
  return kl, grads


def _largest_logit(operands: Sequence[Float[Array, "G C T"]]) -> Array:
  """Returns what no logit exceeds (Cauchy-Schwarz); NaN if one is."""
  squares = [jnp.max(jnp.sum(_wide(x) ** 2, axis=1)) for x in operands]
  return jnp.sqrt(squares[0] * squares[-1] / operands[0].shape[1])


def _some_heads(largest: Float[Array, ""], heads: _Head) -> KlAndGrad:
  """Computes KL and gradient of some heads, side by side where logits allow."""

  def chains(_: Array, heads: _Head) -> KlAndGrad:
    def chain(start: int) -> KlAndGrad:
      teacher, student = jax.tree.map(
        lambda x: x[start : start + CHAIN], (heads.teacher, heads.student)
      )
      axes = _Head(0, 0, None, None)
      part = heads._replace(teacher=teacher, student=student)
      return jax.vmap(_unshifted, (axes,))(part)

    done = map(chain, range(0, len(heads.teacher[0]), CHAIN))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *done)

  return lax.cond(largest <= BOUND, chains, _each_head, largest, heads)


def _each_head(largest: Float[Array, ""], heads: _Head) -> KlAndGrad:
  """Computes the same one head after the other, for any logits."""
  del largest

  def alone(operands: tuple[Operands, Operands]) -> tuple[Array, Operands]:
    teacher, student = operands
    head = heads._replace(teacher=teacher, student=student)
    return _by_blocks(_shifted_block, TILE, head)

  return lax.map(alone, (heads.teacher, heads.student))


def _unshifted(head: _Head) -> tuple[Float[Array, ""], Operands]:
  """Computes KL and gradient of a head none of whose logits exceeds `BOUND`."""
  teacher, student = (
    tuple(map(_wide, x)) for x in (head.teacher, head.student)
  )
  wide = head._replace(teacher=teacher, student=student)
  if len(student) == 1 and len(head.segments) ** 2 <= UNSHIFTED_TILE:
    kl, grads = _symmetric(wide)
  else:
    kl, grads = _by_blocks(_unshifted_block, UNSHIFTED_TILE, wide)
  return kl, tuple(g.astype(head.student[0].dtype) for g in grads)


def _by_blocks(
  one_block: Callable[..., tuple[Array, Array, Array]], tile: int, head: _Head
) -> tuple[Float[Array, ""], Operands]:
  """Sums what the blocks of a head's queries give.

  Args:
    one_block: computes KL, gradient of a block's queries and of all keys from
      (queries and keys of the teacher, those of the student, weights, mask).
    tile: logits in a block at most.
    head: the head.
  """
  length = head.segments.shape[0]
  count = -(-length // max(tile // length, FEWEST))
  block = -(-length // count)
  # Otherwise XLA computes these slices anew for every element that uses them.
  (teacher, student, segments, w), keys = lax.optimization_barrier(
    (head, without_padding(head.segments))
  )
  padded = jax.tree.map(
    lambda x: _pad(x, count * block), (teacher[0], student[0], segments, w)
  )

  def step(grad_y: Array, start: Array) -> tuple[Array, Any]:
    xt, xs, segments, w = lax.optimization_barrier(
      jax.tree.map(
        lambda x: lax.dynamic_slice_in_dim(x, start, block, axis=-1), padded
      )
    )
    mask_ST = keys[:, None] == segments[None]
    kl, grad_x, part = one_block(
      (xt, teacher[-1]), (xs, student[-1]), w, mask_ST
    )
    return grad_y + part, (kl, grad_x)

  zeros = jnp.zeros(student[-1].shape, w.dtype)
  starts = jnp.arange(count) * block
  grad_y, (kl, grad_x) = lax.scan(step, zeros, starts)
  grad_x = grad_x.swapaxes(0, 1).reshape(zeros.shape[0], -1)[:, :length]
  grads = (grad_x, grad_y) if len(student) > 1 else (grad_x + grad_y,)
  return jnp.sum(kl), tuple(g.astype(student[0].dtype) for g in grads)


def _shifted_block(
  teacher: Operands, student: Operands, w: Float[Array, " T"], mask_ST: Array
) -> tuple[Array, Array, Array]:
  """Computes one block of queries for any logits: the maximum first."""
  t, s = (
    jnp.where(mask_ST, _logits(*pair), MASKED) for pair in (teacher, student)
  )
  t -= jnp.max(t, axis=0)[None]
  s -= jnp.max(s, axis=0)[None]
  exp_t, exp_s = jnp.exp(t), jnp.exp(s)
  sum_t, sum_s = jnp.sum(exp_t, axis=0), jnp.sum(exp_s, axis=0)
  kl_T = jnp.sum(exp_t * (t - s), axis=0) / sum_t + jnp.log(sum_s / sum_t)
  x, y = student
  v = w * x.shape[0] ** -0.5
  d_ST = exp_s * (v / sum_s)[None] - exp_t * (v / sum_t)[None]
  d_ST = d_ST.astype(x.dtype)
  grad_x, grad_y = _dot("CS,ST->CT", y, d_ST), _dot("CT,ST->CS", x, d_ST)
  return jnp.sum(kl_T * w), grad_x, grad_y


def _unshifted_block(
  teacher: Operands, student: Operands, w: Float[Array, " T"], mask_ST: Array
) -> tuple[Array, Array, Array]:
  """Computes one block of queries, all but exp by products."""

  def products(operands: Operands) -> Products:
    x, y = operands
    exp_ST = jnp.where(mask_ST, jnp.exp(_logits(x, y)), 0)
    # Of the two orders of the second, XLA's CPU code is faster in this one.
    return (
      lambda y: _dot("CS,ST->CT", y, exp_ST),
      lambda x: _dot("ST,TC->SC", exp_ST, x.T).T,
    )

  return _by_products(teacher, student, w, *map(products, (teacher, student)))


def _symmetric(head: _Head) -> tuple[Array, Operands]:
  """Computes projections with themselves: of two equal squares of exp, one."""
  # Otherwise XLA computes these slices anew for every element that uses them.
  (teacher,), (student,), segments, w = lax.optimization_barrier(head)
  times_t, times_s = (
    _symmetric_product(x, segments) for x in (teacher, student)
  )
  kl, grad_x, grad_y = _by_products(
    *((teacher, teacher), (student, student), w),
    *((times_t, times_t), (times_s, times_s)),
  )
  return kl, (grad_x + grad_y,)


def _symmetric_product(
  x: Float[Array, "C T"], segments: Int[Array, " T"]
) -> Callable[[Array], Array]:
  """Makes a function that multiplies [C, T] with exp(x x / sqrt(C)), masked."""
  starts = range(0, len(segments), SQUARE)
  keys = without_padding(segments)

  def cut(x: Array) -> list[Array]:
    return [x[..., start : start + SQUARE] for start in starts]

  xs, queries, keys = map(cut, (x, segments, keys))
  exps = {
    (i, j): jnp.where(
      keys[i][:, None] == queries[j][None], jnp.exp(_logits(xs[j], xs[i])), 0
    )
    for i, j in itertools.combinations_with_replacement(range(len(xs)), 2)
  }

  def column(parts: Sequence[Array], j: int) -> Array:
    upper = [_dot("CS,ST->CT", parts[i], exps[i, j]) for i in range(j + 1)]
    lower = [
      _dot("CT,ST->CS", parts[i], exps[j, i]) for i in range(j + 1, len(xs))
    ]
    return functools.reduce(jnp.add, upper + lower)

  def times(a: Float[Array, "C T"]) -> Float[Array, "C T"]:
    parts = cut(a)
    return jnp.concatenate([column(parts, j) for j in range(len(xs))], axis=1)

  return times


def _by_products(
  teacher: Operands,
  student: Operands,
  w: Float[Array, " T"],
  products_t: Products,
  products_s: Products,
) -> tuple[Array, Array, Array]:
  """Computes KL, and gradient of queries and keys, by products with exp."""
  (xt, yt), (xs, ys) = teacher, student
  scale_t, scale_s = (x.shape[0] ** -0.5 for x in (xt, xs))
  ones = jnp.ones((1, yt.shape[1]), yt.dtype)
  of_t = products_t[0](jnp.concatenate([yt, ys, ones]))
  of_s = products_s[0](jnp.concatenate([ys, ones]))
  # Padding sees no key.
  sum_t, sum_s = (jnp.where(w > 0, x[-1], 1) for x in (of_t, of_s))
  mean_t, mean_ts = jnp.split(of_t[:-1] / sum_t[None], [yt.shape[0]])
  kl_T = (
    scale_t * jnp.sum(xt * mean_t, axis=0)
    - scale_s * jnp.sum(xs * mean_ts, axis=0)
    + (jnp.log(sum_s) - jnp.log(sum_t))
  )
  v = (w * scale_s)[None]
  grad_x = (of_s[:-1] / sum_s[None] - mean_ts) * v
  grad_y = products_s[1](xs * (v / sum_s[None]))
  grad_y -= products_t[1](xs * (v / sum_t[None]))
  return jnp.sum(kl_T * w), grad_x, grad_y


def _logits(x: Float[Array, "C T"], y: Float[Array, "C S"]) -> Array:
  return _dot("CS,CT->ST", y, x) * x.shape[0] ** -0.5


def _dot(equation: str, a: Array, b: Array) -> Array:
  # Softmax and sums need float32 whatever the projections are.
  wide = jnp.promote_types(a.dtype, jnp.float32)
  return jnp.einsum(equation, a, b, preferred_element_type=wide)


def _wide(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pad(x: Array, length: int) -> Array:
  """Adds queries of no document, so that all blocks are of one size."""
  widths = [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])]
  return jnp.pad(x, widths)
