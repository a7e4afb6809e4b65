"""AdamW with the recipe's schedule, and which parameters it leaves alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Path = tuple[str, ...]


def warmup_linear_decay(
  step: Int[Array, ""], *, peak_lr: float, warmup_steps: int, num_steps: int
) -> Float[Array, ""]:
  """Learning rate of update `step`, counted from 0.

  Rises from 0 (the first update changes nothing) to `peak_lr` at
  `warmup_steps`, or starts there if that is 0, then falls linearly to 0 at
  `num_steps`; the schedule of transformers' Trainer.
  """
  step = jnp.asarray(step, jnp.float32)
  rising = step / warmup_steps if warmup_steps else jnp.ones_like(step)
  falling = (num_steps - step) / max(num_steps - warmup_steps, 1)
  return peak_lr * jnp.clip(jnp.minimum(rising, falling), 0, 1)


def make_optimizer(
  trained: Callable[[Path], bool],
  *,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """AdamW without the learning rate, which the step multiplies in.

  Args:
    trained: whether the parameter at a path is trained. The others get no
      update of any kind, weight decay included, and no moments.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the square root of the second moment.
    weight_decay: on matrices and embeddings; not on biases and LayerNorm.
    clip_norm: largest global norm of a gradient; 0: any.
  """
  # Neither has a state: that of the whole is the same.
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  adamw = optax.chain(
    clip,
    optax.scale_by_adam(b1, b2, eps),
    optax.add_decayed_weights(weight_decay, mask=_map_paths(_is_decayed)),
  )
  labels = _map_paths(lambda path: "trained" if trained(path) else "frozen")
  return optax.partition(
    {"trained": adamw, "frozen": optax.set_to_zero()}, labels
  )


def average(
  before: Any, params: Any, step: Int[Array, ""], decay: float
) -> Any:
  """The moving average of parameters after one more step.

  Args:
    before: the average so far.
    params: what the step has made of the parameters, a tree like it.
    step: its number, counted from 0. Early on the average is over few steps:
      it would be of first weights otherwise.
    decay: share of the average that a late step leaves as it was.
  """
  number = step.astype(jnp.float32)
  share = 1 - jnp.minimum(decay, (1 + number) / (10 + number))
  # In this form what does not change keeps its bits.
  return jax.tree.map(lambda a, p: a + share * (p - a), before, params)


def _is_decayed(path: Path) -> bool:
  return path[-1] in ("kernel", "embedding")


def _map_paths(value: Callable[[Path], Any]) -> Callable[[Any], Any]:
  """Params -> tree of value(path); boxes around arrays add no step to it."""

  def on_leaf(keys: tuple, leaf: object) -> Any:
    del leaf
    names = [k.key for k in keys if isinstance(k, jax.tree_util.DictKey)]
    return value(tuple(names))

  return lambda params: jax.tree_util.tree_map_with_path(on_leaf, params)
