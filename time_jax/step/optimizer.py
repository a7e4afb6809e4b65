"""AdamW, its schedule, and the moving average of parameters."""

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
  """Returns the learning rate of an update; transformers' linear schedule.

  It rises linearly from 0 (the first update changes nothing) to `peak_lr` at
  `warmup_steps`, or starts at `peak_lr` without a warm-up, and falls linearly
  to 0 at `num_steps`:

  >>> rates = [
  ...   warmup_linear_decay(i, peak_lr=1.0, warmup_steps=2, num_steps=6)
  ...   for i in range(6)
  ... ]
  >>> [float(rate) for rate in rates]
  [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]

  Args:
    step: number of updates so far.
    peak_lr: the highest learning rate.
    warmup_steps: number of updates before it.
    num_steps: number of updates of the whole run.
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
  """Returns AdamW without its learning rate, which `state.update` applies.

  Args:
    trained: maps the path of a parameter to whether it is trained. The others
      have no moments and get no update, not even weight decay.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the square root of the second moment.
    weight_decay: decay of matrices and embeddings; biases and LayerNorm have
      none.
    clip_norm: gradients are scaled down to this global norm; 0: never.
  """
  # Neither choice has a state, so checkpoints do not depend on it.
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
  """Returns the exponential moving average of parameters after one more step.

  The decay of step i is min(decay, (1 + i) / (10 + i)): with the full decay
  from the beginning, the average would stay close to the first weights.

  Args:
    before: average so far, a pytree.
    params: parameters after the step, a tree of the same structure.
    step: number of the step, counted from 0.
    decay: weight of the average so far, in late steps.
  """
  number = step.astype(jnp.float32)
  share = 1 - jnp.minimum(decay, (1 + number) / (10 + number))
  # In this form, parameters that do not change keep their bits.
  return jax.tree.map(lambda a, p: a + share * (p - a), before, params)


def _is_decayed(path: Path) -> bool:
  return path[-1] in ("kernel", "embedding")


def _map_paths(value: Callable[[Path], Any]) -> Callable[[Any], Any]:
  """Returns a function that maps each leaf of params to value(its path).

  Boxes around arrays add nothing to the path.
  """

  def on_leaf(keys: tuple, leaf: object) -> Any:
    del leaf
    names = [k.key for k in keys if isinstance(k, jax.tree_util.DictKey)]
    return value(tuple(names))

  return lambda params: jax.tree_util.tree_map_with_path(on_leaf, params)
