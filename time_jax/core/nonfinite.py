"""Keeps numbers that are not finite out of weights and checkpoints."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from time_jax.core.errors import UserError


@jax.jit
def all_finite(tree: Any) -> Bool[Array, ""]:
  """Returns whether a tree of arrays holds neither NaN nor infinity.

  The answer is computed where the arrays live and is the same in all processes.

  Args:
    tree: pytree of arrays; integers are always finite.
  """
  verdict = jnp.asarray(True)
  for leaf in jax.tree.leaves(tree):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      verdict &= jnp.isfinite(leaf).all()
  return verdict


def choose(sound: Bool[Array, ""], new: Any, old: Any) -> Any:
  """Returns the tree `new` where a step is sound, else the tree `old`."""
  return jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, old)


def count(
  sound: Bool[Array, ""], skipped: Int[Array, ""], in_a_row: Int[Array, ""]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
  """Counts a step as skipped unless it is sound.

  Args:
    sound: whether the step changes parameters.
    skipped: number of steps skipped before it.
    in_a_row: how many of them were the last ones, consecutively.

  Returns:
    Both counters after the step.
  """
  bad = (~sound).astype(jnp.int32)
  return skipped + bad, (in_a_row + bad) * bad


def check_first_weights(params: Any, source: str) -> None:
  """Checks the weights that training starts from.

  Args:
    params: pytree of arrays.
    source: where they come from, for the message.

  Raises:
    UserError: they hold NaN or infinity.
  """
  if not all_finite(params):
    raise UserError(
      f"the weights of {source} hold NaN or infinity, so that nothing can be "
      "learned from them; expected finite numbers, as in a fresh copy of them."
    )


def most_skipped(max_skipped: int, num_steps: int) -> int:
  """Returns how many steps skipped in a row end a student.

  Args:
    max_skipped: the number that is set.
    num_steps: steps of the whole run. If they are fewer, a run that skipped all
      of them ends, too: it has learned nothing.
  """
  return min(max_skipped, num_steps)


def reason_to_end(
  in_a_row: int,
  step: int,
  *,
  max_skipped: int,
  num_steps: int,
  spikes: bool,
) -> str:
  """Explains why a run must end because of the steps that it skipped.

  Args:
    in_a_row: number of consecutive steps that were skipped, the last included.
    step: the last step.
    max_skipped: number of consecutive skipped steps that ends the run.
    num_steps: steps of the whole run.
    spikes: whether steps are also skipped for being spikes.

  Returns:
    The reason; empty where the run may go on.
  """
  if in_a_row < most_skipped(max_skipped, num_steps):
    return ""
  or_spike = " or a spike" if spikes else ""
  return (
    f"loss, gradient or update was not finite{or_spike} in {in_a_row} steps in "
    f"a row, up to step {step}."
  )
