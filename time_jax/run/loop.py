"""The training run: order of operations only."""

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config import changes, warmup
from time_jax.config.distill import check_config
from time_jax.core import nonfinite
from time_jax.core.arrays import Batch
from time_jax.core.errors import EXIT_PREEMPTED, RunError
from time_jax.core.storage.paths import prepare_workdir
from time_jax.data import pipeline
from time_jax.parallel import failures, host_collectives, processes, sharding
from time_jax.parallel.watchdog import Watchdog
from time_jax.run import (
  assembly,
  corpus,
  first_state,
  imported_model,
  initial,
  run_record,
  status,
)
from time_jax.run.assembly import make_parallel
from time_jax.step import evaluate, machine, memory, partitioning, train_step
from time_jax.step.objective import Objective
from time_jax.telemetry import history, metrics, profiling, tracking
from time_jax.telemetry.goodput import Ledger
from time_jax.telemetry.history import METRIC


def distill(
  config: ConfigDict,
  workdir: pathlib.Path,
  profile: str = "",
  typed: Collection[str] = (),
) -> int:
  """Distils a student; continues where the workdir's last checkpoint ends.

  Resuming needs no flag and nothing but the workdir. In this order:
    1. data: rows are prepared, or found prepared.
    2. state: the newest checkpoint, or fresh weights from the seed.
    3. position in the data, learning rate, dropout: functions of the step.
    4. metrics: rows behind the checkpoint are dropped, they come again.

  Args:
    config: of the run.
    workdir: of the run.
    profile: START:STOP, steps to trace into WORKDIR/profile; empty: none.
    typed: names of the fields that were given with the command; what was
      typed is never replaced by what would fit.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when told to stop early.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
    RunError: the loss stayed non-finite.
  """
  ledger = Ledger()
  check_config(config)
  warmup.fit(config.train, workdir, typed)
  tracking.check_installed(config.log.wandb)
  window = profiling.read_window(profile, config.train.num_steps)
  prepare_workdir(workdir)
  imported_model.check_not_lost(workdir, layout.step_folders(workdir))
  first_state.take_epsilon(config, workdir, typed)
  teacher_config = assembly.teacher_config(config)
  initial.check_source(config, workdir, teacher_config.vocab_size)
  corpus.keep_limit(config, workdir)
  with processes.hold_workdir(workdir):
    place = processes.join()
    mesh = assembly.make_mesh(config)
    # Text is last: hours may go by, and nothing that was typed is wrong.
    with failures.fail_together():
      rows = corpus.open_corpus(config, workdir, teacher_config.vocab_size)
      host_collectives.barrier("text")
    processes.hear_signals()
    with failures.supervise(config.train.watchdog) as watchdog:
      use_compilation_cache()
      print(machine.introduce(place, mesh), file=sys.stderr, flush=True)
      host_collectives.check_shared(workdir)
      active = jax.process_index() == 0
      with history.session(
        workdir, active, time=ledger.started, **run_record.hardware()
      ) as end:
        code = _distill(config, workdir, rows, mesh, window, ledger, watchdog)
        end(code)  # Only now is the last checkpoint known to be on disk.
    if code == 0 and active:
      status.say_goodbye(workdir, config.train.num_steps)
  return code


def _distill(
  config: ConfigDict,
  workdir: pathlib.Path,
  rows: corpus.Corpus,
  mesh: Mesh,
  window: range,
  ledger: Ledger,
  watchdog: Watchdog,
) -> int:
  """What all processes do together."""
  teacher = assembly.make_teacher(config, mesh)
  objective = assembly.make_objective(config, teacher)
  tx = assembly.make_optimizer(config)
  about = run_record.make_record(config, teacher.fingerprint, rows)
  run_record.check_processes(about)
  with CheckpointWriter(
    workdir,
    keep_latest=config.checkpoint.keep_latest,
    keep_every=config.checkpoint.keep_every,
  ) as checkpoints:
    about |= imported_model.origin(checkpoints)
    state = first_state.restore_or_init(
      config, workdir, checkpoints, objective, tx, mesh, about
    )
    if jax.process_index() == 0:
      imported_model.mark_imported(workdir, about.get("imported", {}))
      run_record.write_files(config, workdir, teacher.vocab_size)
    run = _Run(
      config,
      workdir,
      checkpoints,
      objective,
      rows,
      mesh,
      about,
      evaluate.make_evaluator(objective, mesh),
      window,
      ledger,
      watchdog,
    )
    return run.loop(state)


@dataclasses.dataclass(frozen=True)
class _Run:
  """The loop and what it needs at its stops."""

  config: ConfigDict
  workdir: pathlib.Path
  checkpoints: CheckpointWriter
  objective: Objective
  rows: corpus.Corpus
  mesh: Mesh
  about: dict[str, Any]
  evaluator: evaluate.Evaluator
  profile: range
  ledger: Ledger
  watchdog: Watchdog

  def loop(self, state: train_step.TrainState) -> int:
    """Steps until the end, or until told to stop."""
    self.watchdog.beat()
    num_steps = self.config.train.num_steps
    first = int(state.step)
    how, state = self._settings_of(first, state)
    turns = changes.parse(self.config.train.changes)
    teacher = how.put(self.objective.teacher.params)
    meter, active = metrics.Throughput(), jax.process_index() == 0
    project, tracker = self.config.log.wandb, None
    if active and project:
      settings = self.config.to_dict()
      tracker = tracking.Tracker(project, self.workdir, settings)
    with (
      metrics.Recorder(
        self.workdir, first, num_steps, active, tracker
      ) as recorder,
      contextlib.closing(self._batches(first, how.put_batch)) as batches,
      profiling.Tracer(
        self.workdir / "profile", self.profile, first, active
      ) as tracer,
      contextlib.ExitStack() as stack,
      # Closing the checkpoints would wait for the others.
      failures.fail_together(),
    ):
      begin = "continuing after" if first else "starting at"
      recorder.say(f"{begin} step {first}")
      self.ledger.resume(
        history.read_metrics(self.workdir) if first else [],
        history.starts(self.workdir),
      )
      if (
        self._lacks_evaluation(first)
        and self._evaluate_at(first, how.get(state), recorder) is None
      ):
        return _stopped(first, recorder)
      pending: list[tuple[int, train_step.Metrics]] = []
      tracer.turn(first + 1)
      stack.enter_context(self.ledger.doing("steps"))
      meter.restart()
      timed = meter.timed(self.ledger.timed(batches))
      for step, batch in enumerate(timed, first + 1):
        if new := step - 1 in turns and step > first + 1:
          how, state = self._settings_of(step - 1, how.get(state))
          recorder.say(changes.line(step - 1, turns[step - 1]))
        new |= step == first + 1
        with (
          jax.profiler.StepTraceAnnotation("train", step_num=step),
          self.ledger.doing("compile" if new else "steps"),
        ):
          if step == first + 1:  # What cannot fit is told before it runs.
            memory.compile_step(how.lower(state, teacher, batch), self.mesh)
          state, scalars = how.step(state, teacher, batch)
        self.watchdog.beat()
        pending.append((step, scalars))
        recorder.advance()
        # Fetch what the step before last gave: the device always has the
        # next step queued, and never more than two.
        if len(pending) > 2:
          meter.count(int(pending[0][1]["data/tokens"]))
          self._look_at(*pending.pop(0), recorder, meter)
        stop = processes.preempted()
        halt = stop or self._is_stop(step)
        if halt or tracer.turns(step + 1):
          # All as one interval: they end one right after the other.
          for _, scalars in pending:
            meter.count(int(scalars["data/tokens"]))
          while pending:
            self._look_at(*pending.pop(0), recorder, meter)
          tracer.turn(step + 1)
          if halt:
            stop = self._save_at(step, how.get(state), recorder, stop)
          meter.restart()
        if stop and (step < num_steps or self._evaluates(step)):
          return _stopped(step, recorder)
    return 0

  def _settings_of(
    self, step: int, state: train_step.TrainState
  ) -> tuple[partitioning.Parallel, train_step.TrainState]:
    """The step that comes after `step` steps, and the state as it takes it."""
    config = changes.at(self.config, step)
    tx = assembly.make_optimizer(config)
    how = make_parallel(config, self.objective, tx, self.mesh)
    state = state.knowing(config.train.spike, self.mesh)
    return how, how.put(state)

  def _batches(
    self, first: int, put: Callable[[pipeline.Row], Any]
  ) -> Generator[Any, None, None]:
    size = self.config.train.global_batch_size
    source = pipeline.BatchSource(
      self.rows.train,
      seed=self.config.seed,
      global_batch_size=size,
      wanted=sharding.local_rows(self.mesh, size),
    )
    return pipeline.prefetch(
      source.batch_at,
      first,
      self.config.train.num_steps,
      depth=self.config.data.prefetch,
      put=put,
    )

  def _look_at(
    self,
    step: int,
    scalars: train_step.Metrics,
    recorder: metrics.Recorder,
    meter: metrics.Throughput,
  ) -> None:
    train = self.config.train
    now = changes.fields_at(train, step - 1)
    if reason := nonfinite.reason_to_end(
      int(scalars["train/skipped_in_a_row"]),
      step,
      max_skipped=int(now["max_skipped"]),
      num_steps=train.num_steps,
      spikes=bool(now["spike"]),
    ):
      sound = self.checkpoints.last_sound()
      saved = max(self.checkpoints.steps(), default=0)
      raise RunError(f"{reason} {sound} {changes.way_on(self.config, saved)}")
    if step % self.config.log.every == 0:
      values = {k: np.asarray(v).item() for k, v in scalars.items()}
      if step not in self.profile:  # Tracing takes time of its own.
        values |= meter.read(jax.device_count())
      recorder.write(step, values | self._spent())
      meter.restart()

  def _is_stop(self, step: int) -> bool:
    every = self.config.checkpoint.every, self.config.checkpoint.keep_every
    return (
      any(step % steps == 0 for steps in every)
      or self._evaluates(step)
      or step == self.config.train.num_steps
    )

  def _evaluates(self, step: int) -> bool:
    last = step == self.config.train.num_steps
    due = step % self.config.eval.every == 0 or last
    return self.rows.validation is not None and due

  def _save_at(
    self,
    step: int,
    state: train_step.TrainState,
    recorder: metrics.Recorder,
    stop: bool,
  ) -> bool:
    """Evaluates if it is time to, and saves; whether to stop then.

    An evaluation that a stop leaves out is made up for by the next session.
    """
    scores = None
    if self._evaluates(step) and not stop:
      scores = self._evaluate_at(step, state, recorder)
      stop = scores is None
    with self.ledger.doing("checkpoint"):
      self.checkpoints.save(
        step, state.as_trees(), self.about, scores, wait=stop
      )
    recorder.write(step, self._spent())
    return stop

  def _lacks_evaluation(self, first: int) -> bool:
    """Of the step that this session begins with."""
    if not self._evaluates(first):
      return False
    curve = dict(history.curve(history.read_metrics(self.workdir), METRIC))
    return not host_collectives.broadcast(first in curve)

  def _spent(self) -> metrics.Scalars:
    return self.ledger.row(saving=self.checkpoints.seconds)

  def _evaluate_at(
    self,
    step: int,
    state: train_step.TrainState,
    recorder: metrics.Recorder,
  ) -> dict[str, float] | None:
    """Scores on held-out text; None: told to stop meanwhile."""
    assert self.rows.validation is not None  # See _evaluates.
    stop = False

    def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
      nonlocal stop
      for batch in batches:
        yield batch
        self.watchdog.beat()
        if stop := processes.preempted():
          return

    batches = corpus.evaluation_batches(
      self.rows.validation, self.config.eval.global_batch_size, self.mesh
    )
    teacher_params = self.objective.teacher.params
    with self.ledger.doing("evaluation"):
      params = state.ema or state.params
      found = self.evaluator(params, teacher_params, watched(batches))
    if stop:
      return None
    scores = {f"eval/{name}": value for name, value in found.items()}
    # Where the step is saved already; before the row that says it was scored.
    self.checkpoints.add_scores(step, scores)
    recorder.write(step, scores)
    recorder.say(
      f"step {step}: relation loss on held-out text {scores[METRIC]:.4f}"
    )
    return scores


def _stopped(step: int, recorder: metrics.Recorder) -> int:
  recorder.say(
    f"Stopped by a signal after step {step}; everything is saved. Run the same "
    "command again to continue."
  )
  return EXIT_PREEMPTED


def use_compilation_cache() -> None:
  """Keeps compiled programs in JAX_COMPILATION_CACHE_DIR or ~/.cache."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = pathlib.Path("~/.cache/time_jax/compiled").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home))
