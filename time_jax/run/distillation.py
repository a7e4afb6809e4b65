"""What `distill` trains: students that learn from a teacher."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from time_jax.config import changes
from time_jax.config.students import ONE, field_prefix
from time_jax.core import nonfinite
from time_jax.core.arrays import Batch
from time_jax.core.errors import EXIT_RUN_FAILED
from time_jax.core.notes import say
from time_jax.core.storage.paths import Path
from time_jax.data import pipeline
from time_jax.parallel import host_collectives, sharding
from time_jax.run import (
  assembly,
  corpus,
  run_record,
  students,
  teacher_cache,
)
from time_jax.run.assembly import make_parallel
from time_jax.run.job import Calendar, Job, Scores, States, StepMetrics
from time_jax.run.members import Member
from time_jax.step import evaluate, memory
from time_jax.step.state import TrainState
from time_jax.telemetry import history
from time_jax.telemetry.goodput import Ledger
from time_jax.telemetry.history import METRIC, End


class Distillation(Job):
  """Students that learn from one teacher.

  Attributes:
    configs: config of each student.
    objectives: each student's loss, with the teacher of all.
    mesh: devices of the run.
    cache: what is kept of the teacher's targets; to be closed after the run.
    records: what every checkpoint records of each student, see `run_record`.
    ended: why students have ended, by name.
  """

  tells_speed = True

  def __init__(
    self,
    members: Mapping[str, Member],
    workdir: Path,
    rows: corpus.Corpus,
    mesh: Mesh,
    ledger: Ledger,
    begin: Callable[[str], End],
  ) -> None:
    """Loads the teacher.

    Args:
      members: the students of the run.
      workdir: folder of the run.
      rows: rows to train on and held-out ones.
      mesh: devices of the run.
      ledger: adds up how the time is spent.
      begin: begins the session of a student, and returns what ends it.
    """
    self._begin_session = begin
    self._ends = {name: begin(name) for name in members}
    self.configs = {name: member.config for name, member in members.items()}
    self.folders = {name: member.workdir for name, member in members.items()}
    self.workdir, self.mesh, self.ledger = workdir, mesh, ledger
    self.objectives = assembly.make_objectives(self.configs, mesh, self.folders)
    self.teacher = next(iter(self.objectives.values())).teacher
    self.records = {
      name: run_record.make_record(member, self.teacher, rows)
      for name, member in members.items()
    }
    self.ended: dict[str, str] = {}
    self._common = common = next(iter(self.configs.values()))
    self.prefetch: int = common.data.prefetch
    self.calendar = Calendar(
      num_steps=common.train.num_steps,
      eval_every=common.eval.every if rows.validation is not None else None,
      save_every=(common.checkpoint.every, common.checkpoint.keep_every),
      log_every=(common.log.every,),
    )
    self._changes = {
      name: changes.parse(config.train.changes)
      for name, config in self.configs.items()
    }
    self._validation = rows.validation
    self._evaluator = evaluate.make_evaluator(self.objectives, mesh)
    self.cache = teacher_cache.open_cache(common, self.teacher, rows, mesh)
    size = common.train.global_batch_size
    self._source = pipeline.BatchSource(
      rows.train,
      seed=common.seed,
      global_batch_size=size,
      wanted=sharding.local_rows(mesh, size),
    )

  def begin(self, done: int, states: States) -> States:
    """See `Job`."""
    self._begun = done
    states = self._compile(done, states)
    self._teacher_params = self._parallel.put(self.teacher.params)
    return states

  def _compile(self, done: int, states: States) -> States:
    """Makes the step after `done` steps; returns the states as it takes them.

    Args:
      done: number of steps so far.
      states: global arrays, of the students that go on.
    """
    self._going_on = set(states)
    self._parallel = make_parallel(
      {name: changes.at(self.configs[name], done) for name in states},
      self.objectives,
      self.mesh,
    )
    return {
      name: self._parallel.put(
        self._as_of(done + 1, name, state).at_step(done, self.mesh)
      )
      for name, state in states.items()
    }

  def _as_of(self, step: int, name: str, state: TrainState) -> TrainState:
    """Returns a state with the parts that the settings of a step want.

    An ended student's may be of an earlier step.

    Args:
      step: number of the step, which the state is before or after.
      name: the student.
      state: its state.
    """
    spike = changes.fields_at(self.configs[name].train, step - 1)["spike"]
    return state.with_spike_guard(spike, self.mesh)

  def batch_at(self, done: int) -> tuple[pipeline.Row, Any]:
    """See `Job`: rows, and what the cache has of them."""
    known = self.cache.read(self._source.indices_at(done))
    return self._source.batch_at(done), known

  def place(self, batch: tuple[pipeline.Row, Any]) -> tuple[Batch, Any]:
    """See `Job`."""
    row, known = batch
    return self._parallel.put_batch(row), known

  def refit(self, done: int, states: States) -> States:
    """See `Job`."""
    return {n: self._as_of(done + 1, n, state) for n, state in states.items()}

  def step(
    self, step: int, states: States, batch: tuple[Batch, Any]
  ) -> tuple[States, StepMetrics]:
    """See `Job`."""
    changed = bool(self.notice(step - 1)) or set(states) != self._going_on
    if changed:
      states = self._compile(step - 1, self._global(states))
    first = step == self._begun + 1
    with self.ledger.doing("compile" if first or changed else "steps"):
      rows, known = batch
      targets = self.cache.fill(self._teacher_params, rows, known)
      arguments = states, self._teacher_params, rows, targets
      if first:  # What cannot fit is told before it runs.
        jax.block_until_ready(targets)  # Until then it is in the way.
        lowered = self._parallel.lower(*arguments)
        program = memory.compile_step(lowered, self.mesh)
        self._tell_memory(program, states)
      return self._parallel.step(*arguments)

  def _tell_memory(self, program: jax.stages.Compiled, states: States) -> None:
    """Says what a run of several students takes of a device."""
    if ONE in states or jax.process_index():
      return
    line = memory.describe(
      self._teacher_params,
      states,
      program.memory_analysis(),
      memory.free(),
      self.mesh.local_devices,
    )
    say(f"{line}.")

  def notice(self, done: int) -> str:
    """See `Job`: which settings change now, within a session."""
    if done == self._begun:
      return ""
    return "; ".join(
      students.about(name, changes.line(done, own[done]))
      for name, own in self._changes.items()
      if done in own
    )

  def reason_to_end(self, name: str, step: int, skipped_in_a_row: int) -> str:
    """See `Job`."""
    now = changes.fields_at(self.configs[name].train, step - 1)
    return nonfinite.reason_to_end(
      skipped_in_a_row,
      step,
      max_skipped=int(now["max_skipped"]),
      num_steps=self.calendar.num_steps,
      spikes=bool(now["spike"]),
    )

  def end(self, name: str, step: int, reason: str) -> None:
    """See `Job`: the end of its session is recorded."""
    del step
    self.ended[name] = f"{name} ended: {reason}"
    self._ends[name](EXIT_RUN_FAILED, reason)

  def earlier_reason(self, name: str) -> str:
    """See `Job`: what was recorded when it ended."""
    reasons = [
      row["why"]
      for row in history.read_sessions(self.folders[name])
      if row.get("code") == EXIT_RUN_FAILED and row.get("why")
    ]
    return [super().earlier_reason(name), *reasons][-1]

  def go_on(self, name: str) -> None:
    """See `Job`: it has a new session."""
    del self.ended[name]
    self._ends[name] = self._begin_session(name)

  def finish(self, code: int) -> None:
    """Ends the sessions of the students that have not ended themselves.

    Args:
      code: exit code of the run.
    """
    for end in self._ends.values():
      end(code)

  def about_the_ended(self) -> str:
    """Returns what to say of students that have ended, when others are done."""
    name, others = min(self.ended), sorted(self.configs.keys() - self.ended)
    folder = self.folders[name]
    return (
      f"{' '.join(self.ended.values())} {', '.join(others)} have all their "
      f"steps. To go on training {name} from what it had learned, `time_jax "
      f"export --workdir={folder}`, and start it alone in another --workdir, "
      "with a lower train.peak_lr and "
      f"--config.student.init_from={folder / 'export'}."
    )

  def advice(self, names: Collection[str], saved: int) -> str:
    """See `Job`."""
    if ONE in self.configs:
      return changes.way_on(self._common, saved)
    return " ".join(self._way_on(name, saved) for name in sorted(names))

  def _way_on(self, name: str, saved: int) -> str:
    """Says how one of several students goes on, one that had ended too."""
    config, prefix = self.configs[name], field_prefix(name)
    most = changes.fields_at(config.train, saved)["max_skipped"]
    return changes.way_on(config, saved, prefix, max_skipped=2 * most)

  def lacks_evaluation(self, done: int) -> Collection[str]:
    """See `Job`; step 0 is evaluated, too."""
    if not self.calendar.evaluates(done):
      return []

    def lacking() -> str:
      curves = {
        name: dict(history.curve(history.read_metrics(folder), METRIC))
        for name, folder in self.folders.items()
      }
      return " ".join(n for n, curve in curves.items() if done not in curve)

    return host_collectives.run_on_first(lacking).split()

  def evaluate(self, states: States, watch: Callable[[], None]) -> Scores:
    """See `Job`: the loss and its parts on held-out text."""
    assert self._validation is not None  # See the calendar.

    def batches() -> Iterator[Batch]:
      for batch in corpus.evaluation_batches(
        self._validation, self._common.eval.global_batch_size, self.mesh
      ):
        yield batch
        watch()

    params = {n: s.ema or s.params for n, s in self._global(states).items()}
    scores = self._evaluator(params, self.teacher.params, batches())
    return {
      student: {f"eval/{name}": value for name, value in own.items()}
      for student, own in scores.items()
    }

  def describe_scores(self, step: int, scores: Scores) -> str:
    """See `Job`."""
    losses = ", ".join(
      f"{own[METRIC]:.4f}" if name == ONE else f"{name} {own[METRIC]:.4f}"
      for name, own in scores.items()
    )
    return f"step {step}: loss on held-out text {losses}"

  def trees(self, step: int, states: States) -> dict[str, Any]:
    """See `Job`."""
    return students.join(
      {
        name: self._as_of(step, name, state).at_step(step, self.mesh).as_trees()
        for name, state in self._global(states).items()
      }
    )

  def metadata(self, states: States) -> dict[str, Any]:
    """See `Job`."""
    del states
    return run_record.of_checkpoint(self.records)

  def _global(self, states: States) -> States:
    """Returns states of the step as global arrays."""
    return {name: self._parallel.get(state) for name, state in states.items()}
