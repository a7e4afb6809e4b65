"""The biaffine logits of relations between each word and its head."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TOGETHER = 8  # relations that are scored at once

# Words as dependents, their heads as governors, and the relations.
_Operands = tuple[Array, Array, Array]


@jax.custom_vjp
def pair_logits(
  dependents: Float[Array, "N K"],
  governors: Float[Array, "N K"],
  pairs: Float[Array, "C K K"],
) -> Float[Array, "N C"]:
  r"""Computes the logit of every relation of a word to its head.

  .. math::
    \mathit{logit}_{nc} = x_n^\top P_c\, y_n

  The N x C x K products of all relations would be most of the memory: there are
  few at a time, and for the gradient none is kept.

  Args:
    dependents: x of each word.
    governors: y, of the head of each word.
    pairs: P of each relation.
  """

  def some(pairs_GKK: Array) -> Array:
    mapped = jnp.einsum("nj,gjk->ngk", dependents, pairs_GKK)
    return jnp.einsum("ngk,nk->gn", mapped, governors)

  logits = jax.lax.map(some, _grouped(pairs))
  return logits.reshape(-1, len(dependents))[: len(pairs)].T


def _forward(x: Array, y: Array, pairs: Array) -> tuple[Array, _Operands]:
  return pair_logits(x, y, pairs), (x, y, pairs)


def _backward(operands: _Operands, slopes: Float[Array, "N C"]) -> _Operands:
  """Sums over relations inside matrix products.

  JAX would sum products of N x K numbers, one relation after another, which
  takes a CPU longer than to multiply.
  """
  x, y, pairs = operands
  sums = jnp.zeros(x.shape, jnp.float32), jnp.zeros(y.shape, jnp.float32)

  def some(sums: tuple, group: tuple) -> tuple[tuple, Array]:
    pairs_GKK, slopes_GN = group
    steep_x = jnp.einsum("gn,nk->ngk", slopes_GN, x)
    steep_y = jnp.einsum("gn,nk->ngk", slopes_GN, y)
    to_x = jnp.einsum("ngk,gjk->nj", steep_y, pairs_GKK)
    to_y = jnp.einsum("ngj,gjk->nk", steep_x, pairs_GKK)
    to_pairs = jnp.einsum("nj,ngk->gjk", x, steep_y)
    return (sums[0] + to_x, sums[1] + to_y), to_pairs

  groups = _grouped(pairs), _grouped(slopes.T)
  (to_x, to_y), to_pairs = jax.lax.scan(some, sums, groups)
  to_pairs = to_pairs.reshape(-1, *pairs.shape[1:])[: len(pairs)]
  return to_x.astype(x.dtype), to_y.astype(y.dtype), to_pairs


def _grouped(of_relations: Float[Array, "C ..."]) -> Float[Array, "c G ..."]:
  """Cuts relations into groups of one size, the last filled up with zeros."""
  count = len(of_relations)
  groups = -(-count // TOGETHER)
  size = -(-count // groups)
  rest = [(0, groups * size - count)] + [(0, 0)] * (of_relations.ndim - 1)
  padded = jnp.pad(of_relations, rest)
  return padded.reshape(groups, size, *of_relations.shape[1:])


pair_logits.defvjp(_forward, _backward)
