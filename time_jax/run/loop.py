"""The training loop of `distill` and `finetune`: the order of operations.

What a step computes, what is evaluated and what a checkpoint holds is the
business of a `Job`. When it happens is decided here, the same for all jobs:

  1. an evaluation that a stop left out is made up for;
  2. a step is started, and the results of the step before last are read;
  3. at steps of the calendar, and when told to stop, all results are read, the
     state is evaluated (not when told to stop) and saved.
"""

import abc
import collections
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.core.errors import RunError
from time_jax.core.storage.paths import Path
from time_jax.data import pipeline
from time_jax.parallel import failures, processes
from time_jax.run import students
from time_jax.telemetry import history, metrics, profiling, tracking
from time_jax.telemetry.goodput import Ledger, Throughput

States = dict[str, Any]  # by student
StepMetrics = dict[str, Mapping[str, Any]]  # scalars by name, by student


@dataclasses.dataclass(frozen=True)
class Calendar:
  """The steps, counted from 1, at which something happens besides the step.

  Attributes:
    num_steps: steps of the whole run.
    eval_every: the state is evaluated at multiples of this number and at the
      last step; None: it is never evaluated.
    save_every: the state is saved at multiples of each of these numbers, after
      each evaluation and at the last step.
    log_every: metrics are recorded at multiples of each of these numbers.
  """

  num_steps: int
  eval_every: int | None
  save_every: Sequence[int]
  log_every: Sequence[int]

  def evaluates(self, step: int) -> bool:
    """Returns whether the state is evaluated after a step."""
    if self.eval_every is None:
      return False
    return step % self.eval_every == 0 or step == self.num_steps

  def saves(self, step: int) -> bool:
    """Returns whether the state is saved after a step."""
    due = any(step % every == 0 for every in self.save_every)
    return due or self.evaluates(step) or step == self.num_steps

  def logs(self, step: int) -> bool:
    """Returns whether the metrics of a step are recorded."""
    return any(step % every == 0 for every in self.log_every)


class Job(abc.ABC):
  """Defines what is trained: batches, steps, scores and checkpoints.

  States and metrics are always those of all students, by name.

  Attributes:
    workdir: folder of the run.
    calendar: when the state is evaluated, saved and recorded.
    ledger: adds up how the time is spent.
    tells_speed: whether the metrics tell speed and goodput.
    prefetch: number of batches that are prepared ahead.
  """

  workdir: Path
  calendar: Calendar
  ledger: Ledger
  tells_speed: bool = False
  prefetch: int = 2

  def begin(self, done: int, states: States) -> States:
    """Returns the states after `done` steps as `step` takes them."""
    del done
    return states

  @abc.abstractmethod
  def batch_at(self, done: int) -> Any:
    """Returns the batch after `done` steps, on the host."""

  @abc.abstractmethod
  def place(self, batch: Any) -> Any:
    """Returns a batch as `step` takes it, on the devices."""

  @abc.abstractmethod
  def step(
    self, step: int, states: States, batch: Any
  ) -> tuple[States, StepMetrics]:
    """Starts a step, counted from 1, and returns without waiting for it."""

  def notice(self, done: int) -> str:
    """Returns a line to print after `done` steps; empty: there is none."""
    del done
    return ""

  @abc.abstractmethod
  def reason_to_end(self, step: int, skipped_in_a_row: int) -> str:
    """Returns why skipped steps end the run; empty: it goes on."""

  @abc.abstractmethod
  def advice(self, saved: int) -> str:
    """Says how to go on after that; the newest checkpoint is of `saved`."""

  @abc.abstractmethod
  def lacks_evaluation(self, done: int) -> bool:
    """Returns whether the state after `done` steps is still to be evaluated."""

  @abc.abstractmethod
  def evaluate(
    self, states: States, watch: Callable[[], None]
  ) -> dict[str, float]:
    """Returns the scores of the states; calls `watch` after every batch."""

  @abc.abstractmethod
  def describe_scores(self, step: int, scores: Mapping[str, float]) -> str:
    """Returns a line to print that shows the scores."""

  @abc.abstractmethod
  def trees(self, states: States) -> dict[str, Any]:
    """Returns what a checkpoint holds: pytrees of arrays by name."""

  @abc.abstractmethod
  def metadata(self, states: States) -> dict[str, Any]:
    """Returns what a checkpoint records of itself, as JSON values."""

  def is_over(self) -> bool:
    """Returns whether the run ends before its last step."""
    return False


def train(
  job: Job,
  states: States,
  checkpoints: CheckpointWriter,
  *,
  beat: Callable[[], None],
  profile: range = range(0),
  tracker: tracking.Tracker | None = None,
) -> bool:
  """Trains until the run is over, or until told to stop.

  Args:
    job: what is trained.
    states: states that the run begins or goes on with.
    checkpoints: the run's, to save to.
    beat: tells the watchdog that the run goes on; called after every step and
      after every batch of an evaluation.
    profile: steps that are traced into WORKDIR/profile.
    tracker: gets the metrics, too.

  Returns:
    Whether the run is over; False where it was told to stop, with everything
    saved.

  Raises:
    RunError: too many consecutive steps were skipped, or the state cannot be
      saved.
  """
  beat()
  done = int(next(iter(states.values())).step)
  num_steps, active = job.calendar.num_steps, jax.process_index() == 0
  batches = pipeline.prefetch(
    job.batch_at, done, num_steps, depth=job.prefetch, put=job.place
  )
  trace = job.workdir / "profile"
  with (
    metrics.Recorder(job.workdir, done, num_steps, active, tracker) as recorder,
    contextlib.closing(batches),
    profiling.Tracer(trace, profile, done, active) as tracer,
    # Closing the checkpoints would wait for the others.
    failures.fail_together(),
  ):
    # In here, so that files and tracker are closed if it fails.
    states = job.begin(done, states)
    recorder.say(f"{'continuing after' if done else 'starting at'} step {done}")
    job.ledger.resume(
      history.read_metrics(job.workdir) if done else [],
      history.starts(job.workdir),
    )
    speed = Throughput(job.ledger)
    loop = _Loop(job, checkpoints, recorder, tracer, profile, beat, speed)
    return loop.run(done, states, batches)


class _StopError(Exception):
  """The run was told to stop in the middle of an evaluation."""


@dataclasses.dataclass(frozen=True)
class _Loop:
  job: Job
  checkpoints: CheckpointWriter
  recorder: metrics.Recorder
  tracer: profiling.Tracer
  profile: range
  beat: Callable[[], None]
  throughput: Throughput

  def run(self, done: int, states: States, batches: Iterator[Any]) -> bool:
    job, calendar = self.job, self.job.calendar
    if job.lacks_evaluation(done) and self._evaluate(done, states) is None:
      return self._stopped(done)
    if job.is_over():
      return True
    pending: collections.deque[tuple[int, StepMetrics]] = collections.deque()
    self.tracer.turn(done + 1)
    with job.ledger.doing("steps"):
      self.throughput.restart()
      for step, batch in enumerate(job.ledger.timed(batches), done + 1):
        if notice := job.notice(step - 1):
          self.recorder.say(notice)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
          states, scalars = job.step(step, states, batch)
        self.beat()
        self.recorder.advance()
        pending.append((step, scalars))
        # The step before last is read: the device always has the next step
        # queued, and never more than two.
        if len(pending) > 2:
          self._read([pending.popleft()])
        stop = processes.preempted()
        halt = stop or calendar.saves(step)
        if halt or self.tracer.turns(step + 1):
          self._read(pending)
          pending.clear()
          self.tracer.turn(step + 1)
          if halt:
            stop = self._save(step, states, stop)
          self.throughput.restart()
        if stop and (step < calendar.num_steps or calendar.evaluates(step)):
          return self._stopped(step)
        if job.is_over():
          break
    return True

  def _read(self, results: Collection[tuple[int, StepMetrics]]) -> None:
    """Waits for steps, checks and records them.

    Args:
      results: steps with their metrics. All count as one interval: they end
        one right after the other.
    """
    for _, scalars in results:
      tokens = next(iter(scalars.values())).get("data/tokens", 0)
      self.throughput.count(int(tokens))
    for step, scalars in results:
      for own in scalars.values():
        self._check(step, int(own["train/skipped_in_a_row"]))
      if self.job.calendar.logs(step):
        values = {
          name: np.asarray(value).item()
          for name, value in students.join(scalars).items()
        }
        if self.job.tells_speed:
          if step not in self.profile:  # Tracing takes time of its own.
            values |= self.throughput.read(jax.device_count())
          values |= self._spent()
        self.recorder.write(step, values)
        self.throughput.restart()

  def _check(self, step: int, skipped_in_a_row: int) -> None:
    """Raises RunError where the run has skipped too many steps."""
    if reason := self.job.reason_to_end(step, skipped_in_a_row):
      sound = self.checkpoints.last_sound()
      saved = max(self.checkpoints.steps(), default=0)
      raise RunError(f"{reason} {sound} {self.job.advice(saved)}")

  def _evaluate(self, step: int, states: States) -> dict[str, float] | None:
    """Evaluates the states; returns None where told to stop meanwhile."""

    def watch() -> None:
      self.beat()
      if processes.preempted():
        raise _StopError

    try:
      with self.job.ledger.doing("evaluation"):
        scores = self.job.evaluate(states, watch)
    except _StopError:
      return None
    # A state that is saved already, before the row that says it was scored.
    self.checkpoints.add_scores(step, scores)
    self.recorder.write(step, scores)
    self.recorder.say(self.job.describe_scores(step, scores))
    return scores

  def _save(self, step: int, states: States, stop: bool) -> bool:
    """Evaluates where that is due, and saves.

    Args:
      step: number of the last step.
      states: states after it.
      stop: whether the run was told to stop. Then it is not evaluated: the
        next session makes up for it.

    Returns:
      Whether the run is told to stop by now.
    """
    scores = None
    if self.job.calendar.evaluates(step) and not stop:
      scores = self._evaluate(step, states)
      stop = scores is None
    trees, metadata = self.job.trees(states), self.job.metadata(states)
    with self.job.ledger.doing("checkpoint"):
      self.checkpoints.save(step, trees, metadata, scores, wait=stop)
    if self.job.tells_speed:
      self.recorder.write(step, self._spent())
    return stop

  def _spent(self) -> dict[str, float]:
    return self.job.ledger.row(saving=self.checkpoints.seconds)

  def _stopped(self, step: int) -> bool:
    self.recorder.say(
      f"Stopped by a signal after step {step}; everything is saved. Run the "
      "same command again to continue."
    )
    return False
