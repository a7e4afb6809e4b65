"""How a model is fine-tuned: schedule, optimizer, and when it ends."""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

ADAMW = ("b1", "b2", "eps", "weight_decay", "clip_norm")  # of `config.train`


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a model is fine-tuned.

  Attributes:
    epochs: highest number of epochs.
    patience: the run ends after so many consecutive epochs without a new best.
    peak_lr: highest learning rate of the heads.
    encoder_factor: learning rate of the encoder, relative to the heads'.
    warmup_steps: steps before the peak; after it, the learning rate falls to 0
      along a cosine.
    adamw: arguments of `optimizer.make_optimizer` by their names in `ADAMW`.
    max_skipped: the run ends after so many consecutive steps that were not
      finite.
    ema: decay of the averaged parameters, which are evaluated and kept.
    checkpoint_every: steps between checkpoints, besides the end of every epoch.
    log_every: steps between records.
    seed: seed of weights, dropout and order.
  """

  epochs: int
  patience: int
  peak_lr: float
  encoder_factor: float
  warmup_steps: int
  adamw: Mapping[str, float]
  max_skipped: int
  ema: float
  checkpoint_every: int
  log_every: int
  seed: int

  def learning_rate(
    self, step: Int[Array, ""], num_steps: int
  ) -> Float[Array, ""]:
    """Returns the learning rate of the heads.

    Args:
      step: number of updates so far.
      num_steps: number of updates of all epochs.
    """
    step = jnp.asarray(step, jnp.float32)
    rising = (step + 1) / max(self.warmup_steps, 1)
    decayed = jnp.clip(
      (step - self.warmup_steps) / max(num_steps - self.warmup_steps, 1), 0, 1
    )
    falling = (1 + jnp.cos(math.pi * decayed)) / 2
    return self.peak_lr * jnp.minimum(jnp.minimum(rising, 1), falling)


def recipe_of(config: ConfigDict, seed: int) -> Recipe:
  """Returns how the run of a seed trains, from the config of `finetune`."""
  known = {field.name for field in dataclasses.fields(Recipe)}
  values = {k: v for k, v in config.train.to_dict().items() if k in known}
  return Recipe(
    **values,
    adamw={name: config.train[name] for name in ADAMW},
    checkpoint_every=config.checkpoint.every,
    log_every=config.log.every,
    seed=seed,
  )
