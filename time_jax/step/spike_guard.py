"""Steps whose loss or gradient jumps, measured by what is usual."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Usual = dict[str, Array]

_WINDOW = 128  # steps that the mean is over, about
_LEAST = 20  # steps that must be known before one can be unusual
# Skipped steps in a row after which the level is taken for the new usual one.
# Damaged text makes short bursts. More would end a run, see train.max_skipped.
_NEW_LEVEL = 8


def nothing_known() -> Usual:
  """The statistics before the first step.

  Returns:
    count of the steps known; mean and variance over them of the loss and of
    the gradient's logarithm; spikes, how many there were.
  """
  none, zeros = jnp.zeros((), jnp.int32), jnp.zeros(2)
  return {"count": none, "mean": zeros, "variance": zeros, "spikes": none}


def judge(
  usual: Usual,
  loss: Float[Array, ""],
  grad_norm: Float[Array, ""],
  sigmas: float,
  skipped_in_a_row: Int[Array, ""],
) -> tuple[Bool[Array, ""], Usual]:
  """Says whether a step is a spike, and learns from it if it is none.

  Args:
    usual: of the steps before.
    loss: of this one, like the gradient of all devices.
    grad_norm: before clipping.
    sigmas: standard deviations above the mean that make a spike.
    skipped_in_a_row: steps without a pause that were skipped just before.

  Returns:
    Whether it is one, and the statistics for the next step. A spike changes
    no mean, nor does a value that is not finite: all that comes after would
    be measured by it. But what lasts is no spike: after `_NEW_LEVEL` skipped
    steps the statistics begin anew with this step, which is not skipped.
  """
  values = jnp.stack([loss, jnp.log(grad_norm)])
  finite = jnp.all(jnp.isfinite(values))
  off = values - usual["mean"]
  far = jnp.any(off > sigmas * jnp.sqrt(usual["variance"]))
  far &= finite & (usual["count"] >= _LEAST)
  lasting = far & (skipped_in_a_row >= _NEW_LEVEL)
  spike = far & ~lasting
  # The plain mean over the first steps, then one that forgets.
  share = jnp.maximum(1 / (usual["count"] + 1), 1 / _WINDOW)
  learned = {
    "count": usual["count"] + 1,
    "mean": usual["mean"] + share * off,
    "variance": (1 - share) * (usual["variance"] + share * off**2),
    "spikes": usual["spikes"],
  }
  anew = {
    "count": jnp.ones_like(usual["count"]),
    "mean": values,
    "variance": jnp.zeros_like(values),
    "spikes": usual["spikes"],
  }
  kept = usual | {"spikes": usual["spikes"] + spike}
  learned = jax.tree.map(
    lambda new, first: jnp.where(lasting, first, new), learned, anew
  )
  sound = finite & ~spike
  return spike, jax.tree.map(
    lambda new, old: jnp.where(sound, new, old), learned, kept
  )
