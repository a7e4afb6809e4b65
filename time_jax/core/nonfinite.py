"""Keeps numbers that are not finite out of weights and checkpoints."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from time_jax.core.errors import UserError


@jax.jit
def all_finite(tree: Any) -> Bool[Array, ""]:
  """Says whether a tree of arrays holds neither NaN nor infinity.

  It is computed where the arrays live, and is the same in all processes.

  Args:
    tree: of arrays; those of whole numbers are always finite.
  """
  verdict = jnp.asarray(True)
  for leaf in jax.tree.leaves(tree):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      verdict &= jnp.isfinite(leaf).all()
  return verdict


def choose(sound: Bool[Array, ""], new: Any, old: Any) -> Any:
  """The new arrays of a tree where a step is sound, else the old ones."""
  return jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, old)


def count(
  sound: Bool[Array, ""], skipped: Int[Array, ""], in_a_row: Int[Array, ""]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
  """Counts a step that is skipped unless it is sound.

  Args:
    sound: whether it is.
    skipped: steps that were skipped before it.
    in_a_row: of these, the unbroken run that ended before it.

  Returns:
    Both counters after the step.
  """
  bad = (~sound).astype(jnp.int32)
  return skipped + bad, (in_a_row + bad) * bad


def check_first_weights(params: Any, source: str) -> None:
  """Checks the weights that training is to start from.

  Args:
    params: the weights.
    source: where they come from, for the message.

  Raises:
    UserError: they are not finite.
  """
  if not all_finite(params):
    raise UserError(
      f"the weights of {source} hold NaN or infinity, so that nothing can be "
      "learned from them; expected finite numbers, as in a fresh copy of them."
    )


def reason_to_end(
  in_a_row: int,
  step: int,
  *,
  max_skipped: int,
  num_steps: int,
  spikes: bool,
) -> str:
  """Says why a run must end for the steps that it skipped, if it must.

  Args:
    in_a_row: steps without a pause that were skipped, the last one included.
    step: the last one.
    max_skipped: as many in a row end the run.
    num_steps: of the whole run. One that is shorter than `max_skipped` ends,
      too, when it has skipped all of its steps: it has learned nothing.
    spikes: whether a step may be skipped for a spike.

  Returns:
    The reason; empty where the run may go on.
  """
  if in_a_row < min(max_skipped, num_steps):
    return ""
  or_spike = " or a spike" if spikes else ""
  return (
    f"loss, gradient or update was not finite{or_spike} in {in_a_row} steps in "
    f"a row, up to step {step}."
  )
