"""The relation loss as it is defined: readable, and the judge of all others.

It materialises every B x R x T x S matrix, so use it for small sizes and in
tests; `one_pass` computes the same numbers in a fraction of the memory.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import MASKED, Ids, same_document


def relation_kl(
  teacher: tuple[Float[Array, "B T Dt"], Float[Array, "B S Dt"]],
  student: tuple[Float[Array, "B T Ds"], Float[Array, "B S Ds"]],
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
) -> Float[Array, ""]:
  r"""Computes the weighted sum of KL(teacher relation || student relation).

  Both projections are split into R heads of width C = D / R. A relation is the
  softmax over the keys j of the scaled products of two of them, x on the side
  of the queries i and y on that of the keys; y = x in "qq", "kk" and "vv":

  .. math::
    A_{rij} = \mathrm{softmax}_j\left(
      \frac{x_{ri} \cdot y_{rj}}{\sqrt{C}} \right), \qquad
    \mathrm{loss} = \sum_{b,i} w_{bi} \sum_r \sum_j A^T_{brij}
      \left( \log A^T_{brij} - \log A^S_{brij} \right)

  with A^T the teacher's and A^S the student's relation. A query sees the keys
  of its own document only.

  With w = 1 / (R n) for the tokens of a document of n tokens this is the sum
  over documents of the paper's loss of one relation. The paper's symbols and
  ours:

    A_1, A_2, A_3        query, key and value, "q", "k" and "v" in names
    A_r                  R, `num_heads`
    d_r and d'_r         C of the teacher and of the student
    L and M              `teacher_layer` and `student_layer`
    R^T and R^S          A^T and A^S
    a and t              relation head r and query position i
    |x|                  n, tokens of a document
    alpha_ij             weight of a relation, applied in `step.objective`

  Args:
    teacher: the two projections that form the teacher's relation, [B, T, Dt];
      constants.
    student: the two projections of the student, [B, T, Ds]. Their width may
      differ from the teacher's.
    segment_ids: number of each token's document in its row; 0 for padding.
    query_weights: w, the weight of every query; 0 for padding.
    num_heads: R, a divisor of both widths.

  Returns:
    The sum, in nats; float32, or float64 for such projections.

  Examples:
    A student whose relation is uniform, over the two tokens of a document:

    >>> import jax.numpy as jnp
    >>> from time_jax.relations import dense
    >>> teacher = jnp.array([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    >>> student = jnp.zeros((1, 3, 1))
    >>> segment_ids = jnp.array([[1, 1, 0]])  # The third token is padding.
    >>> weights = jnp.array([[0.5, 0.5, 0.0]])
    >>> kl = dense.relation_kl(
    ...   (teacher, teacher),
    ...   (student, student),
    ...   segment_ids,
    ...   weights,
    ...   num_heads=1,
    ... )
    >>> print(f"{kl:.4f}")
    0.0588

  References:
    Wang et al., `MiniLMv2: Multi-Head Self-Attention Relation Distillation for
    Compressing Pretrained Transformers <https://arxiv.org/abs/2012.15828>`_,
    2020, section 3.1, equations 5 to 7.
  """
  mask_BTS = same_document(segment_ids[:, :, None], segment_ids[:, None, :])
  log_p = _log_relation(*teacher, mask_BTS, num_heads)
  log_q = _log_relation(*student, mask_BTS, num_heads)
  log_p = jax.lax.stop_gradient(log_p)
  kl_BRT = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return jnp.sum(kl_BRT * query_weights[:, None, :])


def _log_relation(
  x: Float[Array, "B T D"],
  y: Float[Array, "B S D"],
  mask_BTS: Bool[Array, "B T S"],
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
