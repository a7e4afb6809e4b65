"""`sweep`: runs the points of a grid, and reports what they gave."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from time_jax.config.command import Command
from time_jax.core.errors import EXIT_PREEMPTED, RunError, UserError
from time_jax.core.storage import lease
from time_jax.core.storage.paths import prepare_workdir
from time_jax.parallel import launcher_env
from time_jax.sweeps import grid, stages, summary
from time_jax.sweeps.grid import Sweep
from time_jax.sweeps.points import Point, make_points


def sweep_command(
  file: str,
  workdir: pathlib.Path,
  commands: Mapping[str, type[Command]],
  fields: Sequence[str] = (),
) -> int:
  """Runs what is not done yet of a sweep, then prints its table.

  Args:
    file: see `grid.load`.
    workdir: gets a folder for every point, and the table.
    commands: all commands there are, by name.
    fields: see `grid.with_fields`.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when a stage ended with it or a
    signal came.

  Raises:
    UserError: a point cannot be run, or was another one before.
    RunError: points failed; all others were run.
  """
  place = launcher_env.detect(os.environ)
  if place and place.num_processes > 1:
    raise UserError(
      f"{place.launcher} started {place.num_processes} processes; a sweep "
      "runs in one, which may use all devices of its host."
    )
  sweep = grid.with_fields(grid.load(file), fields)
  points = make_points(sweep, workdir, commands)
  prepare_workdir(workdir)
  with (
    lease.hold(workdir / lease.RUN, f"--workdir={workdir}"),
    stages.alone(workdir) as lock,
  ):
    runs = [(point, stages.Record(point)) for point in points]
    finished = [
      record.finished(i)
      for point, record in runs
      for i in range(len(point.stages))
    ]
    print(
      f"{len(points)} points, {sum(finished)} of {len(finished)} stages done "
      f"before. Output: {workdir}/POINT/STAGE.log",
      flush=True,
    )
    for number, (point, record) in enumerate(runs, 1):
      head = f"{number}/{len(points)} {point.name}"
      goes_on = _run(sweep, point, record, head, lock)
      summary.write(sweep, points, workdir)
      if not goes_on:
        return EXIT_PREEMPTED
  print("\n" + (workdir / "sweep.md").read_text(encoding="utf-8"))
  plot = ", sweep.png" if (workdir / "sweep.png").exists() else ""
  print(f"Written: {workdir}/sweep.md, sweep.csv{plot}")
  states = {point.name: summary.state(sweep, point) for point in points}
  failed = [
    f"{name} ({text.removeprefix('failed: ')})"
    for name, text in states.items()
    if text.startswith("failed")
  ]
  if failed:
    raise RunError(
      f"{len(failed)} of {len(points)} points failed: {'; '.join(failed)}. "
      "Those stages start again when the sweep does."
    )
  return 0


def _run(
  sweep: Sweep, point: Point, record: stages.Record, head: str, lock: int
) -> bool:
  """Runs the stages of a point that are not done, and prints a line for each.

  Args:
    sweep: the grid.
    point: the point to run.
    record: what is known of its stages.
    head: start of each line.
    lock: see `stages.alone`.

  Returns:
    Whether the sweep goes on; False after a signal or a preempted stage.
  """
  point.folder.mkdir(exist_ok=True)
  for i, stage in enumerate(point.stages):
    if not record.finished(i):
      print(f"{head}: {stage.name} ...", end=" ", flush=True)
      log = stages.log_of(point, i)
      code, seconds, stopped = stages.run(stage, log, lock)
      record.add(i, code, seconds)
      if stopped or code == EXIT_PREEMPTED:
        print(f"stopped after {seconds:,.0f} s; run the sweep again")
        return False
      if code:
        print(
          f"failed after {seconds:,.0f} s with exit code {code}: "
          f"{stages.reason_in(log)} See {log}",
          flush=True,
        )
        return True
      print(f"{seconds:,.0f} s", flush=True)
    if over := summary.over_limit(sweep, point):
      print(f"{head}: skipped: {over}", flush=True)
      return True
  return True
