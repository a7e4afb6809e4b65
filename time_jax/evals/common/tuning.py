"""The fine-tuning run of any task: state, step, loop, checkpoints.

It knows no task: that is a loss, batches by step, and an evaluation.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config.distill import differences
from time_jax.core import nonfinite
from time_jax.core.errors import RunError, UserError
from time_jax.evals.common import batches
from time_jax.evals.common.optimization import Recipe
from time_jax.hf.model_hash import Identity, recognised
from time_jax.models.family import Params
from time_jax.parallel import processes, sharding
from time_jax.step import optimizer
from time_jax.step.train_step import purpose_key
from time_jax.telemetry import metrics

SCORE = "dev/score"  # what the best epoch is chosen by; higher is better
_COUNTERS = ("skipped", "skipped_in_a_row")  # Of a state; in the metadata.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """All that a run needs to go on.

  Attributes:
    step: steps done.
    params: "encoder" and "heads", float32.
    averaged: their moving average.
    opt_state: of the optimizer.
    skipped: steps whose loss, gradient or update was not finite.
    skipped_in_a_row: of these, the unbroken run that ends now.
  """

  step: Int[Array, ""]
  params: Params
  averaged: Params
  opt_state: optax.OptState
  skipped: Int[Array, ""]
  skipped_in_a_row: Int[Array, ""]


class _StopError(Exception):
  """In the middle of an evaluation."""


class Tuned(NamedTuple):
  """What a run ends with.

  Attributes:
    params: the averaged weights of the best epoch.
    history: every epoch's scores.
    seconds: of training and of scoring dev, those of earlier starts included.
  """

  params: Params
  history: list[dict[str, float]]
  seconds: float


class Task(Protocol):
  """What is tuned."""

  def fresh(self, rng: Array) -> Params:
    """Random parameters, "encoder" and "heads", boxed; pure."""

  def loss(
    self, params: Params, batch: Any, rng: Array
  ) -> tuple[Array, Mapping[str, Array]]:
    """The loss of a batch and its parts; pure."""

  def evaluate(
    self, params: Params, beat: Callable[[], None]
  ) -> dict[str, float]:
    """Scores on the dev file, among them `SCORE`; beats after every batch."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A run and its place.

  Attributes:
    task: what is tuned.
    recipe: how.
    batches: of the training file.
    mesh: the devices.
    workdir: of this run.
    record: what shapes the result, kept with every checkpoint.
    encoder: its first weights; None: random ones.
    model: which model these weights are.
    beat: is called after every step, and after every batch of dev.
  """

  task: Task
  recipe: Recipe
  batches: batches.Epochs
  mesh: Mesh
  workdir: pathlib.Path
  record: Mapping[str, Any]
  encoder: Params | None
  model: Identity
  beat: Callable[[], None]

  @property
  def num_steps(self) -> int:
    """Of all epochs."""
    return self.batches.steps * self.recipe.epochs

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    """AdamW without its learning rate."""
    r = self.recipe
    return optimizer.make_optimizer(
      lambda path: True,
      b1=r.b1,
      b2=r.b2,
      eps=r.eps,
      weight_decay=r.weight_decay,
      clip_norm=r.clip_norm,
    )

  @functools.cached_property
  def step(self) -> Any:
    """(state, batch) -> (state, scalars); compiled once for every shape."""
    layout = jax.tree.map(lambda x: x.sharding, self.abstract())
    return jax.jit(
      self._step,
      in_shardings=(layout, sharding.batch_sharding(self.mesh)),
      out_shardings=(layout, NamedSharding(self.mesh, P())),
      donate_argnums=0,
    )

  def _step(self, state: State, batch: Any) -> tuple[State, dict[str, Array]]:
    r = self.recipe
    rng = purpose_key(r.seed, state.step, "dropout")
    grads, parts = jax.grad(self.task.loss, has_aux=True)(
      state.params, batch, rng
    )
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    changes = cast(Params, updates)
    rate = r.learning_rate(state.step, self.num_steps)
    factors = {"encoder": rate * r.encoder_factor, "heads": rate}
    params = {
      name: jax.tree.map(
        lambda p, u, f=factor: p - f * u, state.params[name], changes[name]
      )
      for name, factor in factors.items()
    }
    grad_norm = optax.global_norm(grads)
    numbers = (parts["loss"], grad_norm, rate, params)
    sound = nonfinite.all_finite(numbers)
    params, opt_state = nonfinite.choose(
      sound, (params, opt_state), (state.params, state.opt_state)
    )
    found = optimizer.average(state.averaged, params, state.step, r.ema)
    averaged = nonfinite.choose(sound, found, state.averaged)
    counters = nonfinite.count(sound, state.skipped, state.skipped_in_a_row)
    scalars = {f"train/{name}": value for name, value in parts.items()} | {
      "train/learning_rate": rate,
      "train/grad_norm": grad_norm,
      "train/skipped": counters[0],
      "train/skipped_in_a_row": counters[1],
    }
    return State(
      state.step + 1, params, averaged, opt_state, *counters
    ), scalars

  def _boxed(self) -> State:
    params = self.task.fresh(purpose_key(self.recipe.seed, 0, "init"))
    zero = jnp.zeros((), jnp.int32)
    # Of its own: buffers that are given away must not be shared.
    copy = jax.tree.map(lambda x: x + 0, params)
    return State(zero, params, copy, self.optimizer.init(params), zero, zero)

  def abstract(self) -> State:
    """Shapes and shardings of the state."""
    return sharding.abstract(jax.eval_shape(self._boxed), self.mesh)

  def first_state(self) -> State:
    """The state of step 0."""
    layout = jax.tree.map(lambda x: x.sharding, self.abstract())
    init = jax.jit(lambda: nn.meta.unbox(self._boxed()), out_shardings=layout)
    state = init()
    if self.encoder is None:
      return state
    nonfinite.check_first_weights(self.encoder, "the encoder")
    one, other = (jax.tree.map(jnp.copy, self.encoder) for _ in range(2))
    return dataclasses.replace(
      state,
      params={**state.params, "encoder": one},
      averaged={**state.averaged, "encoder": other},
    )

  def tune(self) -> Tuned | None:
    """Trains to the end, going on where an earlier run was cut off.

    Returns:
      None: told to stop, everything is saved.
    """
    with CheckpointWriter(
      self.workdir, keep_latest=2, keep_every=None, metric=SCORE, highest=True
    ) as checkpoints:
      progress = self._loop(*self._restore(checkpoints), checkpoints)
    if progress is None:
      return None
    history, seconds = progress
    with CheckpointReader(self.workdir) as checkpoints:
      step = (best_epoch(history) + 1) * self.batches.steps
      wanted = {"averaged": self.abstract().averaged}
      params = checkpoints.restore(step, wanted)["averaged"]
    return Tuned(params, history, seconds)

  def _restore(
    self, checkpoints: CheckpointReader
  ) -> tuple[State, list[dict[str, float]], float]:
    """State, history and seconds so far."""
    if not checkpoints.steps():
      return self.first_state(), [], 0.0
    step = checkpoints.steps()[-1]
    record = checkpoints.metadata(step)
    before = recognised(record["run"], self.model, self.workdir)
    check_same(before, self.record, self.workdir)
    trees = checkpoints.restore(step, _trees(self.abstract()))
    rest = trees.pop("rest")
    counters = {}
    for name in _COUNTERS:
      value = np.asarray(record.get(name, 0), np.int32)  # Older ones have none.
      counters[name] = sharding.place(value, NamedSharding(self.mesh, P()))
    state = State(**trees, **rest, **counters)
    return state, record["history"], record["seconds"]

  def _loop(
    self,
    state: State,
    history: list[dict[str, float]],
    seconds: float,
    checkpoints: CheckpointWriter,
  ) -> tuple[list[dict[str, float]], float] | None:
    first, per_epoch = int(state.step), self.batches.steps
    start = time.monotonic() - seconds
    if is_over(history, self.recipe):
      return history, seconds
    active, compiled = jax.process_index() == 0, self.step
    with metrics.Recorder(
      self.workdir, first, self.num_steps, active
    ) as recorder:
      if len(history) < first // per_epoch:  # A stop left the last one out.
        if (scores := self._evaluate(first, state, recorder)) is None:
          return _stopped(first, recorder)
        checkpoints.add_scores(first, scores)
        history = [*history, scores]
        if is_over(history, self.recipe):
          return history, time.monotonic() - start
      pending: list[tuple[int, dict[str, Array]]] = []
      for step in range(first + 1, self.num_steps + 1):
        host = self.batches.batch_at(step - 1)
        with sharding.use_mesh(self.mesh):
          batch = batches.place(host, self.mesh)
          state, scalars = compiled(state, batch)
        self.beat()
        recorder.advance()
        pending.append((step, scalars))
        stop = processes.preempted()
        due = any(
          step % steps == 0
          for steps in (per_epoch, self.recipe.checkpoint_every)
        )
        # The device has the next step queued while one is looked at; but what
        # is saved or evaluated was looked at.
        while len(pending) > (0 if stop or due else 2):
          self._look_at(*pending.pop(0), recorder, checkpoints)
        scores = None
        if step % per_epoch == 0 and not stop:
          scores = self._evaluate(step, state, recorder)
          stop = scores is None
          history = [*history, scores] if scores else history
        if stop or due:
          seconds = time.monotonic() - start
          found = {
            "run": dict(self.record),
            "history": history,
            "seconds": seconds,
            **{name: int(getattr(state, name)) for name in _COUNTERS},
          }
          checkpoints.save(step, _trees(state), found, scores, wait=stop)
        # First: who is told to stop is told once, and other seeds may follow.
        if stop:
          return _stopped(step, recorder)
        if is_over(history, self.recipe):
          break
    return history, seconds

  def _evaluate(
    self, step: int, state: State, recorder: metrics.Recorder
  ) -> dict[str, float] | None:
    """Scores of the epoch that ends with a step; None: told to stop."""

    def watched() -> None:
      self.beat()
      if processes.preempted():
        raise _StopError

    try:
      scores = self.task.evaluate(state.averaged, watched)
    except _StopError:
      return None
    recorder.write(step, scores)
    recorder.say(_line(step // self.batches.steps, scores))
    return scores

  def _look_at(
    self,
    step: int,
    scalars: dict[str, Array],
    recorder: metrics.Recorder,
    checkpoints: CheckpointWriter,
  ) -> None:
    if reason := nonfinite.reason_to_end(
      int(scalars["train/skipped_in_a_row"]),
      step,
      max_skipped=self.recipe.max_skipped,
      num_steps=self.num_steps,
      spikes=False,
    ):
      raise RunError(
        f"{reason} {checkpoints.last_sound()} Start again with a lower "
        "train.peak_lr in another --workdir, or look for damaged weights."
      )
    if step % self.recipe.log_every == 0 or step % self.batches.steps == 0:
      values = {name: np.asarray(v).item() for name, v in scalars.items()}
      recorder.write(step, values)


def best_epoch(history: list[dict[str, float]]) -> int:
  """The epoch, from 0, with the highest score; of equals the later one."""
  scores = [epoch[SCORE] for epoch in history]
  return max(range(len(scores)), key=lambda i: (scores[i], i))


def is_over(history: list[dict[str, float]], recipe: Recipe) -> bool:
  """Whether all epochs are done, or too many in a row fell behind the best."""
  if not history:
    return False
  behind = len(history) - 1 - best_epoch(history)
  return len(history) >= recipe.epochs or behind >= recipe.patience


def check_same(
  before: dict[str, Any], now: Mapping[str, Any], workdir: pathlib.Path
) -> None:
  """UserError where a workdir holds a run that would end otherwise."""
  if changed := differences(before, dict(now)):
    raise UserError(
      f"{workdir} belongs to another run: " + "; ".join(changed) + ". Use "
      "another --workdir, or the same settings to continue."
    )


def _stopped(step: int, recorder: metrics.Recorder) -> None:
  recorder.say(
    f"Stopped by a signal after step {step}; everything is saved. Run the same "
    "command again to continue."
  )


def _trees(state: State) -> dict[str, Any]:
  return {
    "params": state.params,
    "averaged": state.averaged,
    "rest": {"step": state.step, "opt_state": state.opt_state},
  }


def _line(epoch: int, scores: Mapping[str, float]) -> str:
  shown = {name.removeprefix("dev/"): value for name, value in scores.items()}
  return f"epoch {epoch}: dev " + " ".join(
    f"{name} {value:.2f}" for name, value in shown.items()
  )
