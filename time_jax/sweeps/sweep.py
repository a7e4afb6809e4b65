"""`sweep`: runs the points of a grid, and reports what they gave."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from time_jax.config.command import Command
from time_jax.core.errors import (
  EXIT_PREEMPTED,
  RunError,
  UserError,
  explain_unwritable,
)
from time_jax.core.storage import lease
from time_jax.core.storage.paths import prepare_workdir
from time_jax.parallel import launcher_env
from time_jax.sweeps import grid, kept, stages, summary
from time_jax.sweeps.grid import DISTILL, Sweep
from time_jax.sweeps.plan import Plan
from time_jax.sweeps.points import Point, make_points
from time_jax.sweeps.work import Work


def sweep_command(
  file: str,
  workdir: pathlib.Path,
  commands: Mapping[str, type[Command]],
  fields: Sequence[str] = (),
  results: pathlib.Path | None = None,
) -> int:
  """Runs what is not done yet of a sweep, then prints its table.

  Args:
    file: see `grid.load`.
    workdir: gets a folder for every point, and the table.
    commands: all commands there are, by name.
    fields: see `grid.with_fields`.
    results: folder for small files of finished points, see `kept`; points
      that are in it are done.

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
  _check_taken(points, fields)
  prepare_workdir(workdir)
  with (
    lease.hold(workdir / lease.RUN, f"--workdir={workdir}"),
    stages.alone(workdir) as lock,
  ):
    restored = kept.restore(points, results) if results else []
    records = {point.name: stages.Record(point) for point in points}
    finished = [
      records[point.name].finished(i)
      for point in points
      for i in range(len(point.stages))
    ]
    plan = Plan(sweep, points, records, workdir, commands[DISTILL])
    print(
      f"{len(points)} points, {sum(finished)} of {len(finished)} stages done "
      f"before. Output: {workdir}/POINT/STAGE.log",
      flush=True,
    )
    if restored:
      print(f"From {results}: {', '.join(restored)}", flush=True)
    work = Work(sweep, points, records, lock)
    for goes_on in work.steps(plan):
      summary.write(sweep, points, workdir)
      if results:
        _keep(sweep, points, workdir, results)
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


def _check_taken(points: Sequence[Point], fields: Sequence[str]) -> None:
  """Raises UserError where fields are given that no stage takes."""
  names = {stage.name for point in points for stage in point.stages}
  if fields and names.isdisjoint(grid.TRAINING):
    raise UserError(
      f"no stage takes {fields[0]}; expected one of "
      f"{', '.join(grid.TRAINING)} among them, or no such field."
    )


def _keep(
  sweep: Sweep,
  points: Sequence[Point],
  workdir: pathlib.Path,
  results: pathlib.Path,
) -> None:
  """Keeps the points that are done, and the table.

  Raises:
    UserError: the file system refuses.
  """
  try:
    for point in points:
      if summary.state(sweep, point) == summary.DONE:
        kept.keep(point, summary.tokens(point), results)
    kept.keep_table(workdir, results)
  except OSError as error:
    raise UserError(
      f"cannot write to {results} (see --results): "
      f"{explain_unwritable(error)}. What is finished stays in {workdir}."
    ) from error
