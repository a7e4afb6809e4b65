"""The hidden-state term: a student's states point where its teacher's do."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import Ids
from time_jax.relations.loss import token_weights

_EPSILON = 1e-12  # of a squared length, so that a state of zeros has a gradient


@dataclasses.dataclass(frozen=True)
class HiddenTerm:
  r"""Cosine distance between hidden states of a student and of its teacher.

  .. math::
    L_h = \frac{1}{P} \sum_{(l,m)} \frac{1}{|docs|} \sum_d \frac{1}{n_d}
      \sum_{i \in d} \left( 1 - \cos(s^l_i,\, t^m_i E) \right)

  with s^l the output of the student's layer l, t^m that of the teacher's layer
  m, P the number of pairs (l, m), n_d the tokens of document d, and E the
  projection, or the identity. The teacher's states are constants, so that with
  hats for vectors of length 1

  .. math::
    \frac{\partial}{\partial s}\left(1 - \cos(s, t)\right)
      = \frac{\cos(s, t)\, \hat s - \hat t}{|s|}

  Where widths differ, E is fixed. A matrix W that is learnt with the student,
  as in TinyBERT, makes the states S of the student S W; the least of
  |S W - T|^2 over S and W is the projection of T onto its first principal
  components (Eckart and Young, 1936), with their basis as W. With this basis
  as E the student aims at that least from its first step, and there is nothing
  beside it to be learnt, saved and thrown away.

  Attributes:
    weight: weight of the term in the loss.
    pairs: layers that are compared, the student's and the teacher's, from 1.
    projection: E, which makes the teacher's states as wide as the student's;
      None: they are.

  References:
    Sanh et al., DistilBERT, arXiv 1910.01108: the cosine loss, of the last
    layers. Jiao et al., TinyBERT, arXiv 1909.10351: pairs of layers, and widths
    that differ ("hidden states based distillation"; the distance there is the
    square error).
  """

  weight: float
  pairs: tuple[tuple[int, int], ...]
  projection: Float[np.ndarray, "Dt Ds"] | None = None

  @property
  def student_layers(self) -> tuple[int, ...]:
    """Returns the student's layers that are compared, ascending."""
    return tuple(sorted({own for own, _ in self.pairs}))

  @property
  def teacher_layers(self) -> tuple[int, ...]:
    """Returns the teacher's layers that are compared, ascending."""
    return tuple(sorted({layer for _, layer in self.pairs}))

  def sum(
    self,
    teacher: Mapping[int, Float[Array, "B T Dt"]],
    student: Mapping[int, Float[Array, "B T Ds"]],
    segment_ids: Ids,
  ) -> Float[Array, ""]:
    """Computes L_h, summed over the documents of a batch, not averaged.

    As with relations the division by the number of documents is left to the
    caller.

    Args:
      teacher: hidden states of the teacher's layers; constants.
      student: hidden states of the student's layers.
      segment_ids: number of each token's document in its row; 0 for padding.
    """
    aims = {n: self.aim(teacher[n]) for n in self.teacher_layers}
    sums = [
      cosine_sum(aims[layer], student[own], segment_ids)
      for own, layer in self.pairs
    ]
    return jnp.sum(jnp.stack(sums)) / len(sums)

  def aim(self, state: Float[Array, "B T Dt"]) -> Float[Array, "B T Ds"]:
    """Makes a state of the teacher as wide as those of the student."""
    if self.projection is None:
      return state
    return jnp.matmul(
      state,
      jnp.asarray(self.projection, state.dtype),
      preferred_element_type=jnp.promote_types(state.dtype, jnp.float32),
    )


def cosine_sum(
  teacher: Float[Array, "B T D"],
  student: Float[Array, "B T D"],
  segment_ids: Ids,
) -> Float[Array, ""]:
  """Computes the mean of 1 - cos over a document's tokens, summed over them.

  Args:
    teacher: the states to aim at; constants.
    student: the states of the same tokens.
    segment_ids: number of each token's document in its row; 0 for padding.

  Returns:
    The sum over documents; float32, or float64 for such states.

  Examples:
    Of the two tokens of a document, one points where it should:

    >>> import jax.numpy as jnp
    >>> from time_jax.step import hidden_term
    >>> teacher = jnp.array([[[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]])
    >>> student = jnp.array([[[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    >>> segment_ids = jnp.array([[1, 1, 0]])  # The third token is padding.
    >>> print(f"{hidden_term.cosine_sum(teacher, student, segment_ids):.4f}")
    0.5000
  """
  weights_BT = token_weights(segment_ids, student.dtype)
  wide = weights_BT.dtype
  aim = _unit(jax.lax.stop_gradient(teacher).astype(wide))
  # The same as 1 - cos, and exact where the two are nearly equal.
  apart_BT = jnp.sum((_unit(student.astype(wide)) - aim) ** 2, axis=-1) / 2
  return jnp.sum(jnp.where(weights_BT > 0, apart_BT * weights_BT, 0))


def _unit(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
  """Returns vectors of length 1 with the directions of others."""
  squared = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(squared + _EPSILON)
