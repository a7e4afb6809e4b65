"""The state of a training run, and how an update changes it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int

from time_jax.core import nonfinite
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.step import optimizer, spike_guard


@dataclasses.dataclass(frozen=True)
class StepSettings:
  """The constants of a training step.

  Attributes:
    tx: optimizer without its learning rate, which `update` multiplies in.
    learning_rate: maps the number of updates so far to a learning rate.
    seed: seed of the first parameters and of dropout.
    accumulation: micro-batches that a batch is split into.
    spike: a step whose loss or gradient norm is so many standard deviations
      above the mean is skipped; 0 skips none.
    ema: decay of the exponential moving average of the parameters; None keeps
      no average.
    max_skipped: a student that has skipped so many steps in a row has ended:
      later steps change nothing of its state but `step`, so that when it is no
      longer trained makes no difference; None: it never ends.
  """

  tx: optax.GradientTransformation
  learning_rate: Callable[[Array], Array]
  seed: int = 0
  accumulation: int = 1
  spike: float = 0.0
  ema: float | None = None
  max_skipped: int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a run needs to go on; `step` is also its position in the data.

  Attributes:
    step: number of steps done, skipped ones included.
    params: trained parameters, float32.
    opt_state: state of the optimizer.
    skipped: number of steps that changed nothing, because their loss, gradient
      or update was not finite, or because they were spikes.
    skipped_in_a_row: how many of the last steps were skipped consecutively.
    usual: statistics of `spike_guard`; empty where spikes are not looked for.
    ema: moving average of `params`; empty where none is kept.
  """

  step: Int[Array, ""]
  params: Params
  opt_state: optax.OptState
  skipped: Int[Array, ""]
  skipped_in_a_row: Int[Array, ""]
  usual: spike_guard.Statistics = dataclasses.field(default_factory=dict)
  ema: Params = dataclasses.field(default_factory=dict)

  def as_trees(self) -> dict[str, Any]:
    """Returns the trees of a checkpoint of `distill`: params, ema, the rest.

    What is empty is left out, so that checkpoints look as they did before
    there were statistics and averages.
    """
    rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    rest = {name: tree for name, tree in rest.items() if jax.tree.leaves(tree)}
    apart = {name: rest.pop(name) for name in ("params", "ema") if name in rest}
    return apart | {"rest": rest}

  @classmethod
  def from_trees(cls, trees: dict[str, Any]) -> "TrainState":
    """Inverts `as_trees`."""
    apart = dict(trees)
    return cls(**apart.pop("rest"), **apart)

  def starting_from(self, params: Params) -> "TrainState":
    """Returns a fresh state with other first parameters."""
    # A copy: the step donates its buffers, so that none may occur twice.
    ema = jax.tree.map(jnp.copy, params) if self.ema else {}
    return dataclasses.replace(self, params=params, ema=ema)

  def at_step(self, step: int, mesh: Mesh) -> "TrainState":
    """Returns the state with another number of steps done.

    A student that has ended goes through steps that leave it as it is.

    Args:
      step: number of steps of the run.
      mesh: devices that the number is replicated over.
    """
    if int(self.step) == step:
      return self
    replicated = NamedSharding(mesh, P())
    number = sharding.place(np.asarray(step, np.int32), replicated)
    return dataclasses.replace(self, step=number)

  def with_spike_guard(self, spike: float, mesh: Mesh) -> "TrainState":
    """Returns the state as steps with another `spike` take it.

    Args:
      spike: value of `StepSettings.spike` for the steps to come.
      mesh: devices that the statistics are replicated over.
    """
    if bool(spike) == bool(self.usual):
      return self
    usual: spike_guard.Statistics = {}
    if spike:
      replicated = NamedSharding(mesh, P())
      usual = jax.jit(spike_guard.init, out_shardings=replicated)()
    return dataclasses.replace(self, usual=usual)


Init = Callable[[Array], Params]


def init_state(init: Init, settings: StepSettings, mesh: Mesh) -> TrainState:
  """Returns the state of step 0, whose shards are computed where they live.

  Args:
    init: maps a random key to first parameters, boxed with their logical axes.
    settings: settings of the step, which decide what the state holds.
    mesh: devices of the run; none of them ever holds the whole state.
  """
  layout = jax.tree.map(
    lambda leaf: leaf.sharding, abstract_state(init, settings, mesh)
  )
  fresh = jax.jit(
    lambda: nn.meta.unbox(_boxed(init, settings)), out_shardings=layout
  )
  return fresh()


def abstract_state(
  init: Init, settings: StepSettings, mesh: Mesh
) -> TrainState:
  """Returns shapes, dtypes and shardings of a state, which restoring needs."""
  boxed = jax.eval_shape(lambda: _boxed(init, settings))
  return sharding.abstract(boxed, mesh)


def _boxed(init: Init, settings: StepSettings) -> TrainState:
  params = init(purpose_key(settings.seed, 0, "init"))
  zero = jnp.zeros((), jnp.int32)
  averaged = settings.ema is not None
  return TrainState(
    step=zero,
    params=params,
    opt_state=settings.tx.init(params),
    skipped=zero,
    skipped_in_a_row=zero,
    usual=spike_guard.init() if settings.spike else {},
    ema=jax.tree.map(lambda x: x + 0, params) if averaged else {},
  )


def purpose_key(seed: int, step: int | Array, purpose: str) -> Array:
  """Returns the random key of (seed, step, purpose); a run stores none."""
  number = ("init", "dropout").index(purpose)
  key = jax.random.fold_in(jax.random.key(seed), number)
  return jax.random.fold_in(key, step)


def update(
  state: TrainState,
  grads: Params,
  rates: Any,
  sound: Bool[Array, ""],
  settings: StepSettings,
) -> TrainState:
  """Applies gradients, or only counts the step where it must be skipped.

  Args:
    state: state before the step.
    grads: gradients of `state.params`.
    rates: learning rate of all parameters, or one for each of their topmost
      parts, by name.
    sound: whether loss and gradients are finite and no spike.
    settings: optimizer and decay of the average.

  Returns:
    The state after the step. Where `sound` is false, or a learning rate or an
    updated parameter is not finite, only the counters differ.
  """

  def moved(state: TrainState) -> TrainState:
    directions, opt_state = settings.tx.update(
      grads, state.opt_state, state.params
    )
    params = jax.tree.map(
      lambda rate, p, d: jax.tree.map(lambda p, d: p - rate * d, p, d),
      rates,
      state.params,
      directions,
    )
    ema = state.ema
    if settings.ema is not None:
      ema = optimizer.average(ema, params, state.step, settings.ema)
    return dataclasses.replace(
      state, params=params, opt_state=opt_state, ema=ema
    )

  # Computed twice, and written once: to check parameters takes no room for
  # them. A choice between two whole states would hold both.
  sound &= nonfinite.all_finite((rates, moved(state).params))
  state = jax.lax.cond(sound, moved, lambda state: state, state)
  skipped, in_a_row = nonfinite.count(
    sound, state.skipped, state.skipped_in_a_row
  )
  return dataclasses.replace(
    state,
    step=state.step + 1,
    skipped=skipped,
    skipped_in_a_row=in_a_row,
  )
