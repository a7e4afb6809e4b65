"""`distill`: a run that trains a student to have its teacher's relations."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config import changes, warmup
from time_jax.config.distill import check_config
from time_jax.core import nonfinite
from time_jax.core.arrays import Batch
from time_jax.core.errors import EXIT_PREEMPTED
from time_jax.core.storage.paths import Path, prepare_workdir
from time_jax.data import pipeline
from time_jax.parallel import failures, host_collectives, processes, sharding
from time_jax.parallel.watchdog import Watchdog
from time_jax.run import (
  assembly,
  corpus,
  first_state,
  first_weights,
  imported_model,
  loop,
  run_files,
  run_record,
  status,
  students,
)
from time_jax.run.assembly import make_parallel
from time_jax.step import evaluate, machine, memory
from time_jax.telemetry import history, profiling, tracking
from time_jax.telemetry.goodput import Ledger
from time_jax.telemetry.history import METRIC


def distill(
  config: ConfigDict,
  workdir: Path,
  profile: str = "",
  typed: Collection[str] = (),
) -> int:
  """Distils a student; continues after the workdir's newest checkpoint.

  Resuming needs no flag and nothing but the workdir. In this order:
    1. data: rows are prepared, unless they are already.
    2. state: the newest checkpoint, or fresh weights from the seed.
    3. position in the data, learning rate, dropout: functions of the step.
    4. metrics: rows after the checkpoint are dropped, they come again.

  Args:
    config: config of the run; warm-up, epsilon and limit of tokens may change.
    workdir: folder of the run.
    profile: START:STOP, steps to trace into WORKDIR/profile; empty: none.
    typed: names of the fields that were given on the command line, which are
      never replaced by fitting values.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when told to stop early.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
    RunError: too many steps were skipped, or nothing can be saved.
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
  first_weights.check_source(config, workdir, teacher_config.vocab_size)
  corpus.keep_limit(config, workdir)
  with processes.hold_workdir(workdir):
    process = processes.join()
    mesh = assembly.make_mesh(config)
    # Text comes last: it may take hours, and everything typed was checked.
    with failures.fail_together():
      rows = corpus.open_corpus(config, workdir, teacher_config.vocab_size)
      host_collectives.barrier("text")
    processes.hear_signals()
    with failures.supervise(config.train.watchdog) as watchdog:
      machine.use_compilation_cache()
      print(machine.introduce(process, mesh), file=sys.stderr, flush=True)
      host_collectives.check_shared(workdir)
      active = jax.process_index() == 0
      with history.session(
        workdir, active, time=ledger.started, **run_record.hardware()
      ) as end:
        job = Distillation(config, workdir, rows, mesh, ledger)
        code = 0 if _train(job, window, watchdog) else EXIT_PREEMPTED
        end(code)  # Only now is the last checkpoint known to be on disk.
    if code == 0 and active:
      status.print_summary(workdir, config.train.num_steps)
  return code


def _train(job: "Distillation", window: range, watchdog: Watchdog) -> bool:
  """Trains in all processes together; returns whether the run is over."""
  config, workdir = job.config, job.workdir
  run_record.check_processes(job.record)
  with CheckpointWriter(
    workdir,
    keep_latest=config.checkpoint.keep_latest,
    keep_every=config.checkpoint.keep_every,
  ) as checkpoints:
    job.record |= imported_model.origin(checkpoints)
    states = first_state.restore_or_init(
      config, workdir, checkpoints, job.objective, job.mesh, job.record
    )
    tracker = None
    if jax.process_index() == 0:
      imported_model.mark_imported(workdir, job.record.get("imported", {}))
      vocab_size = job.objective.teacher.vocab_size
      run_files.write_files(config, workdir, vocab_size)
      if project := config.log.wandb:
        tracker = tracking.Tracker(project, workdir, config.to_dict())
    return loop.train(
      job,
      states,
      checkpoints,
      beat=watchdog.beat,
      profile=window,
      tracker=tracker,
    )


class Distillation(loop.Job):
  """A student that learns the relations of its teacher.

  Attributes:
    config: config of the run.
    objectives: the relation losses, with teacher and students.
    objective: that of the student.
    mesh: devices of the run.
    record: what every checkpoint records of the run, see `run_record`.
  """

  tells_speed = True

  def __init__(
    self,
    config: ConfigDict,
    workdir: Path,
    rows: corpus.Corpus,
    mesh: Mesh,
    ledger: Ledger,
  ) -> None:
    """Loads the teacher.

    Args:
      config: config of the run.
      workdir: folder of the run.
      rows: rows to train on and held-out ones.
      mesh: devices of the run.
      ledger: adds up how the time is spent.
    """
    self.config, self.workdir, self.mesh = config, workdir, mesh
    self.ledger = ledger
    self.objectives = assembly.make_objectives(
      dict.fromkeys(students.STUDENTS, config), mesh
    )
    (self.objective,) = self.objectives.values()
    teacher = self.objective.teacher
    self.record = run_record.make_record(config, teacher.fingerprint, rows)
    self.prefetch: int = config.data.prefetch
    self.calendar = loop.Calendar(
      num_steps=config.train.num_steps,
      eval_every=config.eval.every if rows.validation is not None else None,
      save_every=(config.checkpoint.every, config.checkpoint.keep_every),
      log_every=(config.log.every,),
    )
    self._changes = changes.parse(config.train.changes)
    self._validation = rows.validation
    self._evaluator = evaluate.make_evaluator(self.objectives, mesh)
    size = config.train.global_batch_size
    self._source = pipeline.BatchSource(
      rows.train,
      seed=config.seed,
      global_batch_size=size,
      wanted=sharding.local_rows(mesh, size),
    )

  def begin(self, done: int, states: loop.States) -> loop.States:
    """See `loop.Job`."""
    self._begun = done
    states = self._compile(done, states)
    self._teacher_params = self._parallel.put(self.objective.teacher.params)
    return states

  def _compile(self, done: int, states: loop.States) -> loop.States:
    """Makes the step after `done` steps; returns the states as it takes them.

    Args:
      done: number of steps so far.
      states: global arrays.
    """
    config = changes.at(self.config, done)
    self._parallel = make_parallel(
      dict.fromkeys(states, config), self.objectives, self.mesh
    )
    return {
      name: self._parallel.put(
        state.with_spike_guard(config.train.spike, self.mesh)
      )
      for name, state in states.items()
    }

  def batch_at(self, done: int) -> pipeline.Row:
    """See `loop.Job`."""
    return self._source.batch_at(done)

  def place(self, batch: pipeline.Row) -> Batch:
    """See `loop.Job`."""
    return self._parallel.put_batch(batch)

  def step(
    self, step: int, states: loop.States, batch: Batch
  ) -> tuple[loop.States, loop.StepMetrics]:
    """See `loop.Job`."""
    if changed := bool(self.notice(step - 1)):
      states = self._compile(step - 1, self._global(states))
    first = step == self._begun + 1
    arguments = states, self._teacher_params, batch
    with self.ledger.doing("compile" if first or changed else "steps"):
      if first:  # What cannot fit is told before it runs.
        memory.compile_step(self._parallel.lower(*arguments), self.mesh)
      new_states, scalars = self._parallel.step(*arguments)
    return new_states, dict(scalars)

  def notice(self, done: int) -> str:
    """See `loop.Job`: which settings change now, within a session."""
    if done not in self._changes or done == self._begun:
      return ""
    return changes.line(done, self._changes[done])

  def reason_to_end(self, step: int, skipped_in_a_row: int) -> str:
    """See `loop.Job`."""
    now = changes.fields_at(self.config.train, step - 1)
    return nonfinite.reason_to_end(
      skipped_in_a_row,
      step,
      max_skipped=int(now["max_skipped"]),
      num_steps=self.calendar.num_steps,
      spikes=bool(now["spike"]),
    )

  def advice(self, saved: int) -> str:
    """See `loop.Job`."""
    return changes.way_on(self.config, saved)

  def lacks_evaluation(self, done: int) -> bool:
    """See `loop.Job`; step 0 is evaluated, too."""
    if not self.calendar.evaluates(done):
      return False
    curve = dict(history.curve(history.read_metrics(self.workdir), METRIC))
    return not host_collectives.broadcast(done in curve)

  def evaluate(
    self, states: loop.States, watch: Callable[[], None]
  ) -> dict[str, float]:
    """See `loop.Job`: relation loss and its parts on held-out text."""
    assert self._validation is not None  # See the calendar.

    def batches() -> Iterator[Batch]:
      for batch in corpus.evaluation_batches(
        self._validation, self.config.eval.global_batch_size, self.mesh
      ):
        yield batch
        watch()

    params = {
      name: state.ema or state.params
      for name, state in self._global(states).items()
    }
    scores = self._evaluator(params, self.objective.teacher.params, batches())
    joined = students.join(scores)
    return {f"eval/{name}": value for name, value in joined.items()}

  def describe_scores(self, step: int, scores: Mapping[str, float]) -> str:
    """See `loop.Job`."""
    return f"step {step}: relation loss on held-out text {scores[METRIC]:.4f}"

  def trees(self, states: loop.States) -> dict[str, Any]:
    """See `loop.Job`."""
    return students.join(
      {name: s.as_trees() for name, s in self._global(states).items()}
    )

  def metadata(self, states: loop.States) -> dict[str, Any]:
    """See `loop.Job`."""
    del states
    return self.record

  def _global(self, states: loop.States) -> loop.States:
    """Returns states of the step as global arrays."""
    return {name: self._parallel.get(state) for name, state in states.items()}
