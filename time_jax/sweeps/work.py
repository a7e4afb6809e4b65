"""The work of a sweep, step by step: points, and groups of them."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from time_jax.checkpoint import layout
from time_jax.core.errors import EXIT_PREEMPTED
from time_jax.sweeps import joint, stages, summary
from time_jax.sweeps.grid import DISTILL, Sweep
from time_jax.sweeps.joint import Group
from time_jax.sweeps.joint_files import index_of, student_of
from time_jax.sweeps.plan import Plan
from time_jax.sweeps.points import Point
from time_jax.sweeps.stages import Record
from time_jax.telemetry import history


class Work:
  """The work of a sweep that is left."""

  def __init__(
    self,
    sweep: Sweep,
    points: Sequence[Point],
    records: Mapping[str, Record],
    lock: int,
  ) -> None:
    """Takes the work over.

    Args:
      sweep: the grid.
      points: its points.
      records: what is known of the stages of each point, by its name.
      lock: see `stages.alone`.
    """
    self._sweep, self._points, self._records = sweep, points, records
    self._lock = lock
    self._over: set[str] = set()  # points of which no more is run now

  def steps(self, plan: Plan) -> Iterator[bool]:
    """Does the work, and yields after each step whether the sweep goes on.

    What measures a point comes first, so that none is distilled with others
    that is too slow.

    Args:
      plan: which points are distilled in one run.
    """
    for point in plan.candidates:
      yield self._run(point, index_of(point))
    for group in plan.groups(self._over):
      yield self._distil(group)
    for point in self._points:
      if point.name not in self._over:
        yield self._run(point, len(point.stages))

  def _run(self, point: Point, count: int) -> bool:
    """Runs stages of a point that are not done, and prints a line for each.

    Args:
      point: the point to run.
      count: how many of its stages it shall have done.

    Returns:
      Whether the sweep goes on; False after a signal or a preempted stage.
    """
    number = self._points.index(point) + 1
    head = f"{number}/{len(self._points)} {point.name}"
    record = self._records[point.name]
    point.folder.mkdir(exist_ok=True)
    for i, stage in enumerate(point.stages[:count]):
      if not record.finished(i):
        print(f"{head}: {stage.name} ...", end=" ", flush=True)
        log = stages.log_of(point, i)
        code, seconds, stopped = stages.run(stage, log, self._lock)
        record.add(i, code, seconds)
        if stopped or code == EXIT_PREEMPTED:
          print(_stopped(seconds))
          return False
        if code:
          print(_failed(seconds, code, log), flush=True)
          self._over.add(point.name)
          return True
        print(f"{seconds:,.0f} s", flush=True)
      if over := summary.over_limit(self._sweep, point):
        print(f"{head}: skipped: {over}", flush=True)
        self._over.add(point.name)
        return True
    return True

  def _distil(self, group: Group) -> bool:
    """Distils the points of a group, and prints a line; see `_run`."""
    group.begin()
    waiting = {
      student: point
      for student, point in group.waiting(self._records).items()
      if point.name not in self._over
    }
    if not waiting:
      return True
    points = [*group.points.values()]
    print(
      f"{group.folder.name}: {DISTILL} of {len(points)} points in one run "
      f"({joint.listed(points)}) ...",
      end=" ",
      flush=True,
    )
    log = group.folder / f"{DISTILL}.log"
    folders = {name: student_of(group.folder, name) for name in waiting}
    known = {n: len(history.read_sessions(f)) for n, f in folders.items()}
    code, seconds, stopped = stages.run(group.stage, log, self._lock)
    failures = []
    for name, point in waiting.items():
      own, why = _end(folders[name], known[name], code)
      record, i = self._records[point.name], index_of(point)
      record.add(i, own, seconds / len(points))
      if own:
        failures.append(
          f"{point.name}: {DISTILL} failed with exit code {own}: {why}"
        )
        self._over.add(point.name)
    if stopped or code == EXIT_PREEMPTED:
      print(_stopped(seconds))
      return False
    if len(failures) == len(waiting):
      print(_failed(seconds, code, log), flush=True)
      if not layout.step_folders(group.folder):
        print(
          "To distil fewer points in one run, lower `together` in the sweep's "
          f"file and delete {group.folder}.",
          flush=True,
        )
      return True
    print(f"{seconds:,.0f} s", flush=True)
    for line in failures:
      print(f"{line} See {log}", flush=True)
    return True


def _end(folder: pathlib.Path, known: int, code: int) -> tuple[int, str]:
  """Returns the exit code of one student of a run, and why it ended.

  Args:
    folder: folder of the student.
    known: how many lines on its sessions there were before.
    code: exit code of the run, which is that of a student that wrote no end.
  """
  rows = history.read_sessions(folder)[known:]
  if rows and isinstance(rows[-1].get("code"), int):
    return rows[-1]["code"], str(rows[-1].get("why", ""))
  return code, ""


def _stopped(seconds: float) -> str:
  return f"stopped after {seconds:,.0f} s; run the sweep again"


def _failed(seconds: float, code: int, log: pathlib.Path) -> str:
  return (
    f"failed after {seconds:,.0f} s with exit code {code}: "
    f"{stages.reason_in(log)} See {log}"
  )
