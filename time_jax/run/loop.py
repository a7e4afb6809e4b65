"""The training loop of `distill` and `finetune`: the order of operations.

What a step computes, what is evaluated and what a checkpoint holds is the
business of a `Job`. When it happens is decided here, the same for all jobs:

  1. an evaluation that a stop left out is made up for;
  2. a step is started, and the results of the step before last are read;
  3. at steps of the calendar, and when told to stop, all results are read, the
     state is evaluated (not when told to stop) and saved.

Of several students, one that skips too many steps ends, and the others go on.
The step leaves an ended student's state as it is, so that it does not matter
when the loop hears of it.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.core.errors import RunError
from time_jax.data import pipeline
from time_jax.parallel import failures, processes
from time_jax.run import students
from time_jax.run.job import Job, Scores, States, StepMetrics
from time_jax.telemetry import history, metrics, profiling, tracking
from time_jax.telemetry.goodput import Throughput


def train(
  job: Job,
  states: States,
  checkpoints: CheckpointWriter,
  *,
  beat: Callable[[], None],
  profile: range = range(0),
  trackers: Mapping[str, tracking.Tracker] | None = None,
) -> bool:
  """Trains until the run is over, or until told to stop.

  Args:
    job: what is trained.
    states: states that the run begins or goes on with.
    checkpoints: the run's, to save to.
    beat: tells the watchdog that the run goes on; called after every step and
      after every batch of an evaluation.
    profile: steps that are traced into WORKDIR/profile.
    trackers: by student, get the metrics, too.

  Returns:
    Whether the run is over; False where it was told to stop, with everything
    saved.

  Raises:
    RunError: all students have skipped too many consecutive steps, or the
      state cannot be saved.
  """
  beat()
  done = int(next(iter(states.values())).step)
  num_steps, active = job.calendar.num_steps, jax.process_index() == 0
  batches = pipeline.prefetch(
    job.batch_at, done, num_steps, depth=job.prefetch, put=job.place
  )
  trace = job.workdir / "profile"
  with (
    metrics.Recorder(
      job.folders, done, num_steps, active, trackers
    ) as recorder,
    contextlib.closing(batches),
    profiling.Tracer(trace, profile, done, active) as tracer,
    # Closing the checkpoints would wait for the others.
    failures.fail_together(),
  ):
    # In here, so that files and trackers are closed if it fails.
    states = job.begin(done, states)
    recorder.say(f"{'continuing after' if done else 'starting at'} step {done}")
    _resume_ledger(job, done)
    speed = Throughput(job.ledger)
    loop = _Loop(job, checkpoints, recorder, tracer, profile, beat, speed)
    return loop.run(done, states, batches)


def _resume_ledger(job: Job, done: int) -> None:
  """Adds what earlier sessions had spent, as the records of any student say."""
  folders = job.folders.values()
  rows = [row for f in folders if done for row in history.read_metrics(f)]
  starts = {time for folder in folders for time in history.starts(folder)}
  job.ledger.resume(sorted(rows, key=lambda row: row["step"]), sorted(starts))


class _StopError(Exception):
  """The run was told to stop in the middle of an evaluation."""


@dataclasses.dataclass
class _Loop:
  job: Job
  checkpoints: CheckpointWriter
  recorder: metrics.Recorder
  tracer: profiling.Tracer
  profile: range
  beat: Callable[[], None]
  throughput: Throughput
  ended: set[str] = dataclasses.field(default_factory=set)

  def run(self, done: int, states: States, batches: Iterator[Any]) -> bool:
    job, calendar = self.job, self.job.calendar
    self._take_stock(done, states)
    lacking = self._living({n: states[n] for n in job.lacks_evaluation(done)})
    if lacking and self._evaluate(done, lacking) is None:
      return self._stopped(done)
    if job.is_over():
      return True
    pending: collections.deque[tuple[int, StepMetrics]] = collections.deque()
    self.tracer.turn(done + 1)
    with job.ledger.doing("steps"):
      self.throughput.restart()
      for step, batch in enumerate(job.ledger.timed(batches), done + 1):
        if notice := job.notice(step - 1):
          self._read(pending)
          pending.clear()
          self.recorder.say(notice)
          ended = {name: states[name] for name in self.ended}
          states = states | job.refit(step - 1, ended)
          self._take_stock(step - 1, states)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
          updated, scalars = job.step(step, self._living(states), batch)
        states = states | updated
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

  def _living(self, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the students that have not ended."""
    return {n: value for n, value in values.items() if n not in self.ended}

  def _take_stock(self, done: int, states: States) -> None:
    """Finds out which of several students have ended, and which go on again.

    An earlier session may have ended them, and a change of the settings may let
    them go on.

    Args:
      done: number of steps so far, of all of which the results were read.
      states: states after them.
    """
    if len(states) == 1:  # Its run ends with it.
      return
    before, self.ended = self.ended, set()
    frozen = {
      name: self.job.earlier_reason(name)
      for name, state in states.items()
      if self.job.reason_to_end(name, done + 1, _first(state.skipped_in_a_row))
    }
    for name in sorted(before - frozen.keys()):
      self.job.go_on(name)
      self.recorder.say(f"{name} goes on after step {done}")
    self.ended = before & frozen.keys()
    self._end(done, self._living(frozen))

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
      self._check(step, scalars)
      if self.job.calendar.logs(step):
        more: dict[str, float] = {}
        if self.job.tells_speed:
          if step not in self.profile:  # Tracing takes time of its own.
            more |= self.throughput.read(jax.device_count())
          more |= self._spent()
        rows = {
          student: {name: np.asarray(x).item() for name, x in own.items()}
          for student, own in self._living(scalars).items()
        }
        self.recorder.write(step, {n: row | more for n, row in rows.items()})
        self.throughput.restart()

  def _check(self, step: int, scalars: StepMetrics) -> None:
    """Ends the students that have skipped too many steps."""
    skipped = {
      name: self.job.reason_to_end(
        name, step, int(own["train/skipped_in_a_row"])
      )
      for name, own in self._living(scalars).items()
    }
    self._end(step, {name: why for name, why in skipped.items() if why})

  def _end(self, step: int, reasons: Mapping[str, str]) -> None:
    """Ends students; raises RunError where none is left.

    Args:
      step: the last step that counts.
      reasons: why, by student.
    """
    if not reasons:
      return
    self.ended |= reasons.keys()
    others = ", ".join(sorted(self.job.folders.keys() - self.ended))
    told = {
      name: students.about(name, reason) for name, reason in reasons.items()
    }
    if not others:
      sound = self.checkpoints.last_sound()
      saved = max(self.checkpoints.steps(), default=0)
      advice = self.job.advice(reasons, saved)
      raise RunError(f"{' '.join(told.values())} {sound} {advice}")
    for name, reason in reasons.items():
      self.job.end(name, step, reason)
      self.recorder.say(
        f"{told[name]} It is kept as it is from here on; {others} go on."
      )

  def _evaluate(self, step: int, states: States) -> Scores | None:
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
    self.checkpoints.add_scores(step, students.join(scores))
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
      scores = self._evaluate(step, self._living(states))
      stop = scores is None
    trees, metadata = self.job.trees(step, states), self.job.metadata(states)
    joined = students.join(scores) if scores else None
    with self.job.ledger.doing("checkpoint"):
      self.checkpoints.save(step, trees, metadata, joined, wait=stop)
    if self.job.tells_speed:
      spent = self._spent()
      self.recorder.write(step, {n: spent for n in self._living(states)})
    return stop

  def _spent(self) -> dict[str, float]:
    return self.job.ledger.row(saving=self.checkpoints.seconds)

  def _stopped(self, step: int) -> bool:
    self.recorder.say(
      f"Stopped by a signal after step {step}; everything is saved. Run the "
      "same command again to continue."
    )
    return False


def _first(counter: Any) -> int:
  """Returns a scalar, of which pmap has one for each device."""
  return int(np.ravel(counter)[0])
