"""The relation loss as it is defined: readable, and the judge of all others.

It materialises every B x R x T x S matrix, so use it for small sizes and in
tests; `one_pass` computes the same numbers in a fraction of the memory.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import Ids

# Finite, so that a fully masked query row stays free of NaN; it gets weight 0.
MASKED = -1e30


def relation_kl(
  teacher: tuple[Float[Array, "B T Dt"], Float[Array, "B S Dt"]],
  student: tuple[Float[Array, "B T Ds"], Float[Array, "B S Ds"]],
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
) -> Float[Array, ""]:
  r"""Weighted sum of KL(teacher relation || student relation).

  For each of the R relation heads, with x the queries' side, y the keys' side
  (y = x for self relations) and C the head's own width:

  .. math::
    A = \mathrm{softmax}(x y^\top / \sqrt{C}), \qquad
    \sum_{b,i} w_{bi} \sum_{r,j} A^t_{brij} (\log A^t - \log A^s)_{brij}

  A query sees the keys of its own document only.

  Args:
    teacher: the two projections that form the teacher's relation; constants.
    student: the same of the student. Its width may differ; both must be
      divisible by `num_heads`.
    segment_ids: 0 for padding, else the document's number in its row.
    query_weights: w, 0 for padding.
    num_heads: R.

  Returns:
    The sum, float32.

  References:
    Wang et al., MiniLMv2, arXiv 2012.15828, equations 5 to 7.
  """
  mask_BTS = same_document(segment_ids)
  log_p = _log_relation(*teacher, mask_BTS, num_heads)
  log_q = _log_relation(*student, mask_BTS, num_heads)
  log_p = jax.lax.stop_gradient(log_p)
  kl_BRT = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return jnp.sum(kl_BRT * query_weights[:, None, :])


def same_document(
  segment_ids: Ids,
) -> Bool[Array, "B T T"]:
  """True where query i and key j are real tokens of one document."""
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  return same & (segment_ids > 0)[:, None, :]


def _log_relation(
  x: Float[Array, "B T D"],
  y: Float[Array, "B S D"],
  mask_BTS: Array,
  num_heads: int,
) -> Float[Array, "B R T S"]:
  x_BTRC = x.reshape(*x.shape[:2], num_heads, -1)
  y_BSRC = y.reshape(*y.shape[:2], num_heads, -1)
  # Softmax and KL need float32 whatever the projections are: bfloat16 logits
  # would cost 1 % of the gradient.
  logits = jnp.einsum(
    "BTRC,BSRC->BRTS",
    x_BTRC,
    y_BSRC,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
  logits *= x_BTRC.shape[-1] ** -0.5
  logits = jnp.where(mask_BTS[:, None], logits, MASKED)
  return jax.nn.log_softmax(logits, axis=-1)
