"""Detects steps whose loss or gradient norm jumps far above the recent mean."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from time_jax.core import nonfinite

Statistics = dict[str, Array]

_WINDOW = 128  # steps that the moving mean covers, roughly
_WARMUP = 20  # steps that must be known before one can be a spike
# Damaged text makes short bursts of spikes. After so many skipped steps the
# level is taken for the new normal one; more would end a run, see
# train.max_skipped.
_BURST = 8


def init() -> Statistics:
  """Returns the statistics before the first step.

  Returns:
    count: number of steps that the statistics cover.
    mean, variance: of (loss, log of the gradient norm) over them, float32 [2].
    spikes: number of spikes so far.
  """
  zero, zeros = jnp.zeros((), jnp.int32), jnp.zeros(2)
  return {"count": zero, "mean": zeros, "variance": zeros, "spikes": zero}


def detect(
  statistics: Statistics,
  loss: Float[Array, ""],
  grad_norm: Float[Array, ""],
  threshold: float,
  skipped_in_a_row: Int[Array, ""],
) -> tuple[Bool[Array, ""], Statistics]:
  """Decides whether a step is a spike, and updates the statistics.

  Neither a spike nor a value that is not finite changes mean and variance, by
  which all later steps are measured. But what lasts is no spike: after
  `_BURST` skipped steps the statistics start again with this step, which is
  not skipped.

  Args:
    statistics: result of `init`, or of this function for the step before.
    loss: loss of the global batch.
    grad_norm: global norm of its gradient, before clipping.
    threshold: standard deviations above the mean that make a spike.
    skipped_in_a_row: number of consecutive steps skipped just before.

  Returns:
    Whether the step is a spike, and the statistics for the next step.
  """
  values = jnp.stack([loss, jnp.log(grad_norm)])
  finite = jnp.all(jnp.isfinite(values))
  off = values - statistics["mean"]
  far = jnp.any(off > threshold * jnp.sqrt(statistics["variance"]))
  far &= finite & (statistics["count"] >= _WARMUP)
  lasting = far & (skipped_in_a_row >= _BURST)
  spike = far & ~lasting
  # A plain mean over the first steps, then an exponential moving one.
  share = jnp.maximum(1 / (statistics["count"] + 1), 1 / _WINDOW)
  updated = {
    "count": statistics["count"] + 1,
    "mean": statistics["mean"] + share * off,
    "variance": (1 - share) * (statistics["variance"] + share * off**2),
    "spikes": statistics["spikes"],
  }
  restarted = {
    "count": jnp.ones_like(statistics["count"]),
    "mean": values,
    "variance": jnp.zeros_like(values),
    "spikes": statistics["spikes"],
  }
  kept = statistics | {"spikes": statistics["spikes"] + spike}
  moved = nonfinite.choose(lasting, restarted, updated)
  return spike, nonfinite.choose(finite & ~spike, moved, kept)
