r"""Loss and gradient of the relation KL in one sweep, one relation head a time.

The teacher is frozen and the student's gradient is known in closed form, so
both come out of the same tile and no T x S matrix outlives it. For one head,
with teacher logits t and student logits s, P = softmax(t), Q = softmax(s):

.. math::
  \mathrm{KL}_i = \sum_j P_{ij}(t_{ij} - s_{ij}) - \mathrm{lse}_i(t)
                  + \mathrm{lse}_i(s)

.. math::
  D_{ij} = w_i (Q - P)_{ij}, \qquad
  \partial x = D\, y / \sqrt{C}, \qquad \partial y = D^\top x / \sqrt{C}

The backward pass only scales what the forward pass already has.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from time_jax.arrays import Ids
from time_jax.relations.dense import MASKED, same_document

Pair = tuple[Array, Array]


def relation_kl(
  teacher: tuple[Float[Array, "B T Dt"], Float[Array, "B S Dt"]],
  student: tuple[Float[Array, "B T Ds"], Float[Array, "B S Ds"]],
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
) -> Float[Array, ""]:
  """The same as `dense.relation_kl`, in O(B T S) memory instead of O(B R T S).

  Differentiable with respect to `student` only; the teacher, the segments and
  the weights are constants.

  Args:
    teacher: the two projections that form the teacher's relation.
    student: the same of the student.
    segment_ids: 0 for padding, else the document's number in its row.
    query_weights: weight of every query row, 0 for padding.
    num_heads: R, a divisor of both widths.

  Returns:
    The weighted sum of KL(teacher || student), float32.
  """
  constants = jax.lax.stop_gradient((teacher, segment_ids, query_weights))
  return _relation_kl(num_heads, student, *constants)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _relation_kl(
  num_heads: int, student: Pair, teacher: Pair, segment_ids: Array, w: Array
) -> Array:
  return _sweep(num_heads, student, teacher, segment_ids, w)[0]


def _forward(
  num_heads: int, student: Pair, teacher: Pair, segment_ids: Array, w: Array
) -> tuple[Array, Pair]:
  return _sweep(num_heads, student, teacher, segment_ids, w)


def _backward(num_heads: int, grads: Pair, cotangent: Array) -> tuple:
  del num_heads
  scaled = jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), grads)
  return scaled, None, None, None


_relation_kl.defvjp(_forward, _backward)


def _sweep(
  num_heads: int, student: Pair, teacher: Pair, segment_ids: Array, w: Array
) -> tuple[Array, Pair]:
  mask = same_document(segment_ids)

  def one_head(total: Array, head: tuple[Pair, Pair]) -> tuple[Array, Pair]:
    kl_B, grads = _tile(*head, mask, w)
    return total + kl_B, grads

  heads = jax.tree.map(functools.partial(_split, num_heads), (teacher, student))
  # One number a row: a single one would be reduced over the devices in every
  # round of the loop.
  zeros = jnp.zeros(w.shape[0], w.dtype)
  total_B, grads = jax.lax.scan(one_head, zeros, heads)
  return jnp.sum(total_B), jax.tree.map(_join, grads)


def _tile(
  teacher: Pair, student: Pair, mask_BTS: Array, w_BT: Array
) -> tuple[Float[Array, " B"], Pair]:
  """KL and its gradient for one relation head of every row."""
  t, s = _logits(teacher, mask_BTS), _logits(student, mask_BTS)
  lse_t = jax.nn.logsumexp(t, axis=-1, keepdims=True)
  lse_s = jax.nn.logsumexp(s, axis=-1, keepdims=True)
  p, q = jnp.exp(t - lse_t), jnp.exp(s - lse_s)
  kl_BT = jnp.sum(p * (t - s), axis=-1) + (lse_s - lse_t)[..., 0]
  x, y = student
  d = ((q - p) * w_BT[..., None] * x.shape[-1] ** -0.5).astype(x.dtype)
  wide = dict(preferred_element_type=w_BT.dtype)
  grad_x = jnp.einsum("BTS,BSC->BTC", d, y, **wide).astype(x.dtype)
  grad_y = jnp.einsum("BTS,BTC->BSC", d, x, **wide).astype(y.dtype)
  return jnp.sum(kl_BT * w_BT, axis=1), (grad_x, grad_y)


def _logits(pair: Pair, mask_BTS: Array) -> Float[Array, "B T S"]:
  x, y = pair
  wide = jnp.promote_types(x.dtype, jnp.float32)
  logits = jnp.einsum("BTC,BSC->BTS", x, y, preferred_element_type=wide)
  return jnp.where(mask_BTS, logits * x.shape[-1] ** -0.5, MASKED)


def _split(num_heads: int, x: Float[Array, "B T D"]) -> Float[Array, "R B T C"]:
  x_BTRC = x.reshape(*x.shape[:2], num_heads, -1)
  return x_BTRC.transpose(2, 0, 1, 3)


def _join(x: Float[Array, "R B T C"]) -> Float[Array, "B T D"]:
  x_BTRC = x.transpose(1, 2, 0, 3)
  return x_BTRC.reshape(*x_BTRC.shape[:2], -1)
