"""`distill`: a run that trains students to have their teacher's relations."""

import contextlib
import sys
from collections.abc import Collection, Mapping

import jax
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config import warmup
from time_jax.config.distill import check_config
from time_jax.config.students import ONE, field_prefix, typed_of
from time_jax.core.errors import EXIT_PREEMPTED, RunError
from time_jax.core.storage.paths import Path
from time_jax.parallel import failures, host_collectives, processes
from time_jax.parallel.watchdog import Watchdog
from time_jax.run import (
  assembly,
  corpus,
  first_state,
  first_weights,
  imported_model,
  loop,
  members,
  run_files,
  run_record,
  start,
  status,
  students,
  students_status,
)
from time_jax.run.distillation import Distillation
from time_jax.run.members import Member
from time_jax.step import machine
from time_jax.telemetry import history, profiling, tracking
from time_jax.telemetry.goodput import Ledger
from time_jax.telemetry.history import METRIC


def distill(
  config: ConfigDict,
  workdir: Path,
  profile: str = "",
  typed: Collection[str] = (),
) -> int:
  """Distils students; continues after the workdir's newest checkpoint.

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
    RunError: too many steps were skipped, or nothing can be saved. Where a
      student has ended while others went on, it is raised when they are done.
  """
  ledger = Ledger()
  check_config(config)
  tracking.check_installed(config.log.wandb, several=bool(config.students))
  window = profiling.read_window(profile, config.train.num_steps)
  corpus.keep_limit(config, workdir)  # The last change for all students.
  group = members.members(config, workdir)
  members.prepare_folders(group, workdir)
  for name, member in group.items():
    _settle(name, member, typed)
  vocab_size = assembly.check_students(
    {name: member.config for name, member in group.items()}
  ).vocab_size
  for name, member in group.items():
    with students.naming(name):
      first_weights.check_source(member.config, member.workdir, vocab_size)
  with processes.hold_workdir(workdir):
    process = processes.join()
    mesh = assembly.make_mesh(config)
    # Text comes last: it may take hours, and everything typed was checked.
    with failures.fail_together():
      rows = corpus.open_corpus(config, workdir, vocab_size)
      host_collectives.barrier("text")
      if jax.process_index() == 0:
        start.write_narrower(group, workdir, vocab_size, rows.train)
      host_collectives.barrier("start")
    processes.hear_signals()
    # Between two steps, all students are compiled, restored or saved.
    with failures.supervise(config.train.watchdog * len(group)) as watchdog:
      machine.use_compilation_cache()
      print(machine.introduce(process, mesh), file=sys.stderr, flush=True)
      host_collectives.check_shared(workdir)
      active = jax.process_index() == 0
      with contextlib.ExitStack() as sessions:

        def begin(name: str) -> history.End:
          start = {"time": ledger.started, **run_record.hardware()}
          folder = group[name].workdir
          return sessions.enter_context(
            history.session(folder, active, **start)
          )

        job = Distillation(group, workdir, rows, mesh, ledger, begin)
        sessions.enter_context(contextlib.closing(job.cache))
        over = _train(job, config, group, window, watchdog)
        code = 0 if over else EXIT_PREEMPTED
        job.finish(code)  # Only now is the last checkpoint known to be on disk.
    if code == 0 and active:
      _print_summary(job)
    if code == 0 and job.ended:
      raise RunError(job.about_the_ended())
  return code


def _print_summary(job: Distillation) -> None:
  num_steps = job.calendar.num_steps
  if ONE in job.folders:
    status.print_summary(job.workdir, num_steps)
  else:
    students_status.print_summary(job.folders, num_steps)


def _settle(name: str, member: Member, typed: Collection[str]) -> None:
  """Sets the fields of a student that follow from others, and checks it.

  Args:
    name: the student.
    member: its config, some fields of which may change, and its folder.
    typed: names of the fields that were given on the command line.
  """
  own = typed_of(name, typed)
  prefix = field_prefix(name)
  warmup.fit(member.config.train, member.workdir, own, prefix)
  saved = layout.step_folders(member.workdir)
  imported_model.check_not_lost(member.workdir, saved)
  with students.naming(name):
    first_state.take_epsilon(member.config, member.workdir, own)


def _train(
  job: Distillation,
  config: ConfigDict,
  group: Mapping[str, Member],
  window: range,
  watchdog: Watchdog,
) -> bool:
  """Trains in all processes together; returns whether the run is over."""
  run_record.check_processes(job.records)
  with CheckpointWriter(
    job.workdir,
    keep_latest=config.checkpoint.keep_latest,
    keep_every=config.checkpoint.keep_every,
    metrics=list(students.join({name: {METRIC: METRIC} for name in group})),
  ) as checkpoints:
    if ONE in job.records:
      job.records[ONE] |= imported_model.origin(checkpoints)
    states = first_state.restore_or_init(
      group, checkpoints, job.objectives, job.mesh, job.records
    )
    trackers: dict[str, tracking.Tracker] = {}
    if jax.process_index() == 0:
      members.write_places(group, config, job.workdir)
      for name, member in group.items():
        imported = job.records[name].get("imported", {})
        imported_model.mark_imported(member.workdir, imported)
        vocab_size = job.teacher.vocab_size
        run_files.write_files(member.config, member.workdir, vocab_size)
      trackers = _trackers(group, job.workdir)
    return loop.train(
      job,
      states,
      checkpoints,
      beat=watchdog.beat,
      profile=window,
      trackers=trackers,
    )


def _trackers(
  group: Mapping[str, Member], workdir: Path
) -> dict[str, tracking.Tracker]:
  """Returns the service of each student, where one is wanted."""
  return {
    name: tracking.Tracker(
      member.config.log.wandb,
      member.workdir,
      member.config.to_dict(),
      group="" if name == ONE else workdir.name,
    )
    for name, member in group.items()
    if member.config.log.wandb
  }
