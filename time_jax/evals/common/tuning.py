"""Fine-tuning a model for any task: its batches, its scores, its checkpoints.

What a step computes is in `tuning_step`. When things happen is decided by
`run.loop`, as for `distill`.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config.recorded import differences
from time_jax.config.students import ONE
from time_jax.core import nonfinite
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.evals.common import batches, tuning_step
from time_jax.evals.common.optimization import Recipe
from time_jax.evals.common.task import SCORE, Beat, Task
from time_jax.hf.model_identity import Identity, upgrade_record
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.run import loop, students
from time_jax.run.job import Calendar, Job, Scores, States, StepMetrics
from time_jax.step import optimizer
from time_jax.step.state import (
  StepSettings,
  TrainState,
  abstract_state,
  init_state,
)
from time_jax.telemetry.goodput import Ledger

_COUNTERS = ("skipped", "skipped_in_a_row")  # Kept in the metadata.


class Batches(Protocol):
  """Batches of the training file.

  Attributes:
    steps: number of batches of an epoch.
  """

  steps: int

  def batch_at(self, step: int) -> Any:
    """Returns a pytree of host arrays with the rows in front.

    Args:
      step: number of the batch from 0, through all epochs.
    """


@dataclasses.dataclass
class Tuning(Job):
  """A model that is fine-tuned with one seed.

  Attributes:
    task: what it is tuned for.
    recipe: how it is trained.
    batches: batches to train on.
    mesh: devices of the run.
    workdir: folder of this seed.
    record: what shapes the result; kept with every checkpoint.
    encoder: the encoder's first weights; None: random ones.
    model: identity of the model that has these weights.
    history: scores of every epoch so far.
    seconds: time of training and of scoring dev, earlier sessions included.
  """

  task: Task
  recipe: Recipe
  batches: Batches
  mesh: Mesh
  workdir: Path
  record: Mapping[str, Any]
  encoder: Params | None
  model: Identity
  history: list[dict[str, float]] = dataclasses.field(default_factory=list)
  seconds: float = 0.0

  @property
  def num_steps(self) -> int:
    """Number of steps of all epochs."""
    return self.batches.steps * self.recipe.epochs

  def __post_init__(self) -> None:
    """Sets what follows from the fields."""
    epoch = self.batches.steps
    self.folders = {ONE: self.workdir}
    self.ledger = Ledger()
    self.calendar = Calendar(
      num_steps=self.num_steps,
      eval_every=epoch,
      save_every=(self.recipe.checkpoint_every,),
      log_every=(self.recipe.log_every, epoch),
    )

  @functools.cached_property
  def settings(self) -> StepSettings:
    """Returns the constants of the step: AdamW and its schedule."""
    r = self.recipe
    tx = optimizer.make_optimizer(lambda path: True, **r.adamw)
    rate = functools.partial(r.learning_rate, num_steps=self.num_steps)
    return StepSettings(tx, rate, seed=r.seed, ema=r.ema)

  @functools.cached_property
  def gradients(self) -> Callable[..., Any]:
    """Compiles `tuning_step.gradients`, for every shape of a batch."""
    layout = jax.tree.map(lambda x: x.sharding, self.abstract().params)
    return jax.jit(
      functools.partial(
        tuning_step.gradients, task=self.task, seed=self.settings.seed
      ),
      out_shardings=(layout, NamedSharding(self.mesh, P())),
    )

  @functools.cached_property
  def update(self) -> Callable[..., Any]:
    """Compiles `tuning_step.apply_gradients`."""
    layout = jax.tree.map(lambda x: x.sharding, self.abstract())
    return jax.jit(
      functools.partial(
        tuning_step.apply_gradients,
        settings=self.settings,
        encoder_factor=self.recipe.encoder_factor,
      ),
      out_shardings=(layout, NamedSharding(self.mesh, P())),
      donate_argnums=0,
    )

  def abstract(self) -> TrainState:
    """Returns shapes and shardings of the state."""
    return abstract_state(self.task.fresh, self.settings, self.mesh)

  def first_state(self) -> TrainState:
    """Returns the state of step 0."""
    state = init_state(self.task.fresh, self.settings, self.mesh)
    if self.encoder is None:
      return state
    nonfinite.check_first_weights(self.encoder, "the encoder")
    encoder = jax.tree.map(jnp.copy, self.encoder)  # The step donates it.
    return state.starting_from({**state.params, "encoder": encoder})

  def tune(self, beat: Beat) -> Params | None:
    """Trains to the end, going on after the newest checkpoint.

    Args:
      beat: tells the watchdog that the run goes on.

    Returns:
      The averaged parameters of the best epoch, "encoder" and "heads"; None
      where told to stop, with everything saved.
    """
    with CheckpointWriter(
      self.workdir,
      keep_latest=2,
      keep_every=None,
      metrics=[SCORE],
      highest=True,
    ) as checkpoints:
      states = {ONE: self._restore(checkpoints)}
      self._started = time.monotonic() - self.seconds
      if not loop.train(self, states, checkpoints, beat=beat):
        return None
    with CheckpointReader(self.workdir) as checkpoints:
      step = (best_epoch(self.history) + 1) * self.batches.steps
      wanted = {"averaged": self.abstract().ema}
      return checkpoints.restore(step, wanted)["averaged"]

  def _restore(self, checkpoints: CheckpointReader) -> TrainState:
    """Returns the state that the run goes on with; sets history and seconds."""
    if not checkpoints.steps():
      return self.first_state()
    step = checkpoints.steps()[-1]
    metadata = checkpoints.metadata(step)
    before = upgrade_record(metadata["run"], self.model, self.workdir)
    check_same(before, self.record, self.workdir)
    self.history, self.seconds = metadata["history"], metadata["seconds"]
    trees = checkpoints.restore(step, _trees(self.abstract()))
    rest, replicated = trees["rest"], NamedSharding(self.mesh, P())
    skipped, in_a_row = (
      # Earlier versions did not count.
      sharding.place(np.asarray(metadata.get(name, 0), np.int32), replicated)
      for name in _COUNTERS
    )
    return TrainState(
      step=rest["step"],
      params=trees["params"],
      opt_state=rest["opt_state"],
      skipped=skipped,
      skipped_in_a_row=in_a_row,
      ema=trees["averaged"],
    )

  def batch_at(self, done: int) -> Any:
    """See `Job`."""
    return self.batches.batch_at(done)

  def place(self, batch: Any) -> Any:
    """See `Job`."""
    return batches.place(batch, self.mesh)

  def step(
    self, step: int, states: States, batch: Any
  ) -> tuple[States, StepMetrics]:
    """See `Job`."""
    del step
    new_states: States = {}
    scalars: dict[str, Mapping[str, Any]] = {}
    gradients, update = self.gradients, self.update
    with sharding.use_mesh(self.mesh):
      for name, state in states.items():
        grads, parts = gradients(state.params, state.step, batch)
        new_states[name], scalars[name] = update(state, grads, parts)
    return new_states, scalars

  def reason_to_end(self, name: str, step: int, skipped_in_a_row: int) -> str:
    """See `Job`."""
    del name
    return nonfinite.reason_to_end(
      skipped_in_a_row,
      step,
      max_skipped=self.recipe.max_skipped,
      num_steps=self.num_steps,
      spikes=False,
    )

  def advice(self, names: Collection[str], saved: int) -> str:
    """See `Job`."""
    del names, saved
    return (
      "Start again with a lower train.peak_lr in another --workdir, or look "
      "for damaged weights."
    )

  def lacks_evaluation(self, done: int) -> Collection[str]:
    """See `Job`."""
    return [ONE] if len(self.history) < done // self.batches.steps else []

  def evaluate(self, states: States, watch: Callable[[], None]) -> Scores:
    """See `Job`; adds the scores to the history."""
    scores = {n: self.task.evaluate(s.ema, watch) for n, s in states.items()}
    self.history = [*self.history, scores[ONE]]
    self.seconds = time.monotonic() - self._started
    return scores

  def describe_scores(self, step: int, scores: Scores) -> str:
    """See `Job`."""
    shown = " ".join(
      f"{name.removeprefix('dev/')} {value:.2f}"
      for name, value in scores[ONE].items()
    )
    return f"epoch {step // self.batches.steps}: dev {shown}"

  def trees(self, step: int, states: States) -> dict[str, Any]:
    """See `Job`."""
    del step
    return students.join({name: _trees(s) for name, s in states.items()})

  def metadata(self, states: States) -> dict[str, Any]:
    """See `Job`."""
    self.seconds = time.monotonic() - self._started
    counters = {
      student: {name: int(getattr(state, name)) for name in _COUNTERS}
      for student, state in states.items()
    }
    return {
      "run": dict(self.record),
      "history": self.history,
      "seconds": self.seconds,
      **students.join(counters),
    }

  def is_over(self) -> bool:
    """Returns whether all epochs are done, or the best is too long ago."""
    if not self.history:
      return False
    worse_since = len(self.history) - 1 - best_epoch(self.history)
    all_done = len(self.history) >= self.recipe.epochs
    return all_done or worse_since >= self.recipe.patience


def best_epoch(history: list[dict[str, float]]) -> int:
  """Returns the epoch, from 0, with the highest score; of equals the last."""
  scores = [epoch[SCORE] for epoch in history]
  return max(range(len(scores)), key=lambda i: (scores[i], i))


def check_same(
  before: dict[str, Any], now: Mapping[str, Any], workdir: Path
) -> None:
  """Checks that a workdir's run goes on with what shaped it so far.

  Args:
    before: record of the run in the workdir.
    now: record of this session.
    workdir: folder of the run, for the message.

  Raises:
    UserError: the records differ.
  """
  if changed := differences(before, dict(now)):
    raise UserError(
      f"{workdir} belongs to another run: " + "; ".join(changed) + ". Use "
      "another --workdir, or the same settings to continue."
    )


def _trees(state: TrainState) -> dict[str, Any]:
  """Returns what a checkpoint holds of a state, by its names there."""
  return {
    "params": state.params,
    "averaged": state.ema,
    "rest": {"step": state.step, "opt_state": state.opt_state},
  }
