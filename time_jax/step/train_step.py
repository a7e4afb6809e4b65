"""One optimizer step: pure maths, the same under jit and under pmap."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from time_jax.core import nonfinite
from time_jax.core.arrays import Batch, checksum
from time_jax.models.family import Params, init_params
from time_jax.parallel import sharding
from time_jax.relations.loss import count_documents
from time_jax.step import optimizer, spike_guard
from time_jax.step.gradient_accumulation import gradients
from time_jax.step.objective import Objective

Metrics = dict[str, Array]
Step = Callable[["TrainState", Params, Batch], tuple["TrainState", Metrics]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a run needs to go on; `step` is also its position in the data.

  Attributes:
    step: steps done, skipped ones included.
    params: the student's, float32.
    opt_state: of the optimizer.
    skipped: steps whose loss, gradient or update was not finite, or a spike.
    skipped_in_a_row: of these, the unbroken run that ends now.
    usual: what `spikes` knows of the steps before; empty: spikes may pass.
    ema: average of the parameters over the steps; empty: there is none.
  """

  step: Int[Array, ""]
  params: Params
  opt_state: optax.OptState
  skipped: Int[Array, ""]
  skipped_in_a_row: Int[Array, ""]
  usual: spike_guard.Usual = dataclasses.field(default_factory=dict)
  ema: Params = dataclasses.field(default_factory=dict)

  def as_trees(self) -> dict[str, Any]:
    """As a checkpoint holds it: parameters apart from the rest.

    What is empty is left out, as it was before there could be any.
    """
    rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    rest = {
      name: value for name, value in rest.items() if jax.tree.leaves(value)
    }
    apart = {n: rest.pop(n) for n in ("params", "ema") if n in rest}
    return apart | {"rest": rest}

  @classmethod
  def from_trees(cls, trees: dict[str, Any]) -> "TrainState":
    """The inverse of `as_trees`."""
    apart = dict(trees)
    return cls(**apart.pop("rest"), **apart)

  def starting_from(self, params: Params) -> "TrainState":
    """A fresh state with other first weights."""
    # Of its own: buffers that are given away must not be shared.
    ema = jax.tree.map(jnp.copy, params) if self.ema else {}
    return dataclasses.replace(self, params=params, ema=ema)

  def knowing(self, spike: float, mesh: Mesh) -> "TrainState":
    """The state with what steps of another `spike` need to know.

    Args:
      spike: of the steps to come, see `train_step`.
      mesh: the devices.
    """
    if bool(spike) == bool(self.usual):
      return self
    usual: spike_guard.Usual = {}
    if spike:
      everywhere = NamedSharding(mesh, P())
      usual = jax.jit(spike_guard.nothing_known, out_shardings=everywhere)()
    return dataclasses.replace(self, usual=usual)


def abstract_state(
  student: nn.Module,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  *,
  spike: float = 0.0,
  ema: float = 0.0,
) -> TrainState:
  """Shapes, dtypes and shardings of a state; what restoring one needs."""
  boxed = jax.eval_shape(lambda: _fresh_state(student, tx, 0, spike, ema))
  return sharding.abstract(boxed, mesh)


def init_state(
  student: nn.Module,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
  *,
  spike: float = 0.0,
  ema: float = 0.0,
) -> TrainState:
  """A fresh state, computed where it lives: no device ever holds all of it.

  Args:
    student: whose parameters are trained.
    tx: the optimizer.
    mesh: the devices.
    seed: of the parameters.
    spike: as of `train_step`; likewise:
    ema: both say what the state holds.
  """
  abstract = abstract_state(student, tx, mesh, spike=spike, ema=ema)
  layout = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  fresh = jax.jit(
    lambda: nn.meta.unbox(_fresh_state(student, tx, seed, spike, ema)),
    out_shardings=layout,
  )
  return fresh()


def _fresh_state(
  student: nn.Module,
  tx: optax.GradientTransformation,
  seed: int,
  spike: float,
  ema: float,
) -> TrainState:
  params = init_params(student, purpose_key(seed, 0, "init"))
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(zero, params, tx.init(params), zero, zero)
  return dataclasses.replace(
    state,
    usual=spike_guard.nothing_known() if spike else {},
    ema=jax.tree.map(lambda x: x + 0, params) if ema else {},
  )


def purpose_key(seed: int, step: int | Array, purpose: str) -> Array:
  """Random key of (seed, step, purpose); a run stores none."""
  number = ("init", "dropout").index(purpose)
  key = jax.random.fold_in(jax.random.key(seed), number)
  return jax.random.fold_in(key, step)


def train_step(
  state: TrainState,
  teacher_params: Params,
  batch: Batch,
  *,
  objective: Objective,
  tx: optax.GradientTransformation,
  learning_rate: Callable[[Array], Array],
  seed: int,
  accumulation: int = 1,
  spike: float = 0.0,
  ema: float = 0.0,
  axis: str | None = None,
) -> tuple[TrainState, Metrics]:
  """One update of the student.

  Args:
    state: before the update.
    teacher_params: an argument, with its own sharding; never closed over.
    batch: the global batch, or with `axis` this device's rows of it.
    objective: the relation loss.
    tx: the optimizer, without its learning rate.
    learning_rate: step -> learning rate.
    seed: of dropout.
    accumulation: micro-batches that the rows are split into.
    spike: standard deviations above the usual that make a spike; 0: none is.
    ema: decay of the parameters' average; 0: there is none.
    axis: name of the pmapped axis; None under jit, which sees all rows.

  Returns:
    The next state, and scalars. A step changes nothing but the counters whose
    loss or gradient is a spike, or whose loss, gradient, learning rate or
    update is not finite.
  """
  add_up = functools.partial(_add_up, axis)
  documents = add_up(count_documents(batch.segment_ids))
  rng = purpose_key(seed, state.step, "dropout")
  if axis:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
  grads, loss, parts = add_up(
    gradients(
      state.params,
      teacher_params,
      batch,
      objective,
      jnp.maximum(documents, 1).astype(jnp.float32),
      rng,
      accumulation,
    )
  )
  grad_norm = optax.global_norm(grads)
  sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  if spike:
    is_spike, usual = spike_guard.judge(
      state.usual, loss, grad_norm, spike, state.skipped_in_a_row
    )
    sound &= ~is_spike
    state = dataclasses.replace(state, usual=usual)
  lr = learning_rate(state.step)
  with jax.named_scope("optimizer"):
    state = _update(state, grads, tx, lr, sound, ema)
  metrics = {f"train/kl_{name}": value for name, value in parts.items()} | {
    "train/loss": loss,
    "train/learning_rate": lr,
    "train/grad_norm": grad_norm,
    "train/skipped": state.skipped,
    "train/skipped_in_a_row": state.skipped_in_a_row,
    "data/documents": documents,
    "data/tokens": add_up(jnp.sum(batch.segment_ids > 0)),
    "data/checksum": add_up(checksum(batch)),
  }
  if spike:
    metrics["train/spikes"] = state.usual["spikes"]
  return state, metrics


def _update(
  state: TrainState,
  grads: Params,
  tx: optax.GradientTransformation,
  lr: Array,
  sound: Array,
  ema: float,
) -> TrainState:
  direction, opt_state = tx.update(grads, state.opt_state, state.params)
  params = jax.tree.map(lambda p, d: p - lr * d, state.params, direction)
  sound &= jnp.isfinite(lr) & nonfinite.all_finite(params)
  params, opt_state = nonfinite.choose(
    sound, (params, opt_state), (state.params, state.opt_state)
  )
  averaged = state.ema
  if ema:
    found = optimizer.average(state.ema, params, state.step, ema)
    averaged = nonfinite.choose(sound, found, state.ema)
  skipped, in_a_row = nonfinite.count(
    sound, state.skipped, state.skipped_in_a_row
  )
  return dataclasses.replace(
    state,
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    skipped=skipped,
    skipped_in_a_row=in_a_row,
    ema=averaged,
  )


def _add_up(axis: str | None, tree: Any) -> Any:
  return jax.lax.psum(tree, axis) if axis else tree
