"""How a fine-tuning run trains: its schedule and its optimizer's settings."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a run trains.

  Attributes:
    epochs: at most.
    patience: epochs in a row below the best before the run ends.
    peak_lr: of the heads.
    encoder_factor: what the encoder's learning rate is of it.
    warmup_steps: up to the peak; then a cosine to 0 at the last epoch's end.
    b1: of Adam.
    b2: of Adam.
    eps: of Adam.
    weight_decay: on kernels and embeddings.
    clip_norm: largest norm of a gradient; 0: any.
    max_skipped: steps in a row that were not finite before the run ends.
    ema: decay of the averaged weights, by which a run is judged.
    checkpoint_every: steps, besides the end of every epoch.
    log_every: steps.
    seed: of weights, dropout and order.
  """

  epochs: int
  patience: int
  peak_lr: float
  encoder_factor: float
  warmup_steps: int
  b1: float
  b2: float
  eps: float
  weight_decay: float
  clip_norm: float
  max_skipped: int
  ema: float
  checkpoint_every: int
  log_every: int
  seed: int

  def learning_rate(
    self, step: Int[Array, ""], num_steps: int
  ) -> Float[Array, ""]:
    """Of update `step`, counted from 0."""
    step = jnp.asarray(step, jnp.float32)
    rising = (step + 1) / max(self.warmup_steps, 1)
    left = jnp.clip(
      (step - self.warmup_steps) / max(num_steps - self.warmup_steps, 1), 0, 1
    )
    falling = (1 + jnp.cos(math.pi * left)) / 2
    return self.peak_lr * jnp.minimum(jnp.minimum(rising, 1), falling)


def recipe_of(config: ConfigDict, seed: int) -> Recipe:
  """How the run of a seed trains, from the config of `finetune`."""
  known = {field.name for field in dataclasses.fields(Recipe)}
  values = {k: v for k, v in config.train.to_dict().items() if k in known}
  return Recipe(
    **values,
    checkpoint_every=config.checkpoint.every,
    log_every=config.log.every,
    seed=seed,
  )
