"""Which points of a sweep are distilled in one run."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from time_jax.config.command import Command
from time_jax.core.errors import UserError
from time_jax.sweeps import alike, joint, joint_files
from time_jax.sweeps.grid import Sweep
from time_jax.sweeps.joint import Group
from time_jax.sweeps.points import Point
from time_jax.sweeps.stages import Record


class Plan:
  """Which points are distilled in one run."""

  def __init__(
    self,
    sweep: Sweep,
    points: Sequence[Point],
    records: Mapping[str, Record],
    workdir: pathlib.Path,
    distill: type[Command],
  ) -> None:
    """Forms the groups, and checks their commands before any of them runs.

    Args:
      sweep: the grid.
      points: its points.
      records: what is known of the stages of each point, by its name.
      workdir: folder of the sweep.
      distill: the command.

    Raises:
      UserError: see `joint.begun`.
    """
    self._together, self._points = sweep.together, points
    self._workdir, self._command = workdir, distill
    self._begun = joint.begun(points, records, workdir, distill)
    found = alike.alike(points, records, workdir)
    parts = [part for several in found for part in self._split(several)]
    # Of a part that cannot be made, each point is distilled alone.
    formed = {p.name for part in parts if self._make(part) for p in part}
    self._alike = [[p for p in ps if p.name in formed] for ps in found]
    goes_on = [
      point.name
      for group in self._begun
      for point in group.waiting(records).values()
    ]
    self._candidates = formed.union(goes_on)

  @property
  def candidates(self) -> list[Point]:
    """The points that are or will be in a group, in the order of the grid."""
    return [point for point in self._points if point.name in self._candidates]

  def groups(self, left_out: set[str]) -> Iterator[Group]:
    """Yields the groups to be distilled, those of earlier sessions first.

    Args:
      left_out: names of the points that shall not be distilled.
    """
    yield from self._begun
    for several in self._alike:
      for part in self._split([p for p in several if p.name not in left_out]):
        if group := self._make(part):
          yield group

  def _split(self, points: Sequence[Point]) -> list[Sequence[Point]]:
    parts = alike.split(points, self._together) if points else []
    return [part for part in parts if len(part) > 1]

  def _make(self, points: Sequence[Point]) -> Group | None:
    folder, named = joint_files.next_folder(self._workdir), joint.named(points)
    try:
      return joint.make(folder, named, self._command)
    except UserError as error:
      print(
        f"{joint.listed(points)}: not distilled in one run. {error}", flush=True
      )
      return None
