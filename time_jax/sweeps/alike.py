"""Which points one run may distil, as they have teacher and text in common."""

import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from time_jax.config.fields import flatten
from time_jax.config.students import is_own
from time_jax.run.assembly import RANDOM
from time_jax.sweeps.grid import DISTILL
from time_jax.sweeps.joint_files import index_of, is_free, place_of
from time_jax.sweeps.points import Point
from time_jax.sweeps.stages import Record

_PART = r"[\w.+=-]"  # a character of a point's name, see `grid.as_name`


def alike(
  points: Sequence[Point],
  records: Mapping[str, Record],
  workdir: pathlib.Path,
) -> list[list[Point]]:
  """Returns points that one run may distil, two or more in each list.

  Args:
    points: the points of the sweep.
    records: what is known of the stages of each point, by its name.
    workdir: folder of the sweep.
  """
  names = {point.name for point in points}
  found: dict[Any, list[Point]] = {}
  for point in points:
    if (
      _may_share(point, names, workdir)
      and not records[point.name].finished(index_of(point))
      and is_free(place_of(point), workdir)
    ):
      found.setdefault(_common(point), []).append(point)
  return [several for several in found.values() if len(several) > 1]


def split(points: Sequence[Point], together: int) -> list[Sequence[Point]]:
  """Returns points in as few parts as possible, of about the same size.

  Args:
    points: points that are alike.
    together: the largest size of a part.
  """
  size = -(-len(points) // -(-len(points) // together))
  return [points[i : i + size] for i in range(0, len(points), size)]


def _may_share(
  point: Point, names: Collection[str], workdir: pathlib.Path
) -> bool:
  """Returns whether a point's student could be one of a run of several."""
  if [stage.name for stage in point.stages].count(DISTILL) != 1:
    return False
  index, place = index_of(point), place_of(point)
  config = point.stages[index].values.config
  inside = place.is_relative_to(point.folder) and place != point.folder
  if config.students or config.train.parallel == "pmap" or not inside:
    return False
  if ".." in place.parts or point.folder.is_symlink():
    return False  # No relative link leads from there.
  words = [word for stage in point.stages[:index] for word in stage.words]
  if any(re.search(rf"{re.escape(str(place))}(?!{_PART})", w) for w in words):
    return False  # An earlier stage, as `prepare`, needs a folder there.
  words += point.stages[index].words
  inside = re.compile(rf"{re.escape(str(workdir))}/({_PART}+)")
  mentioned = {name for word in words for name in inside.findall(word)}
  return not mentioned & {*names} - {point.name}  # It needs what those make.


def _common(point: Point) -> tuple[str, ...]:
  """Returns what is the same in all points of a run."""
  values = point.stages[index_of(point)].values
  fields = dict(flatten(values.config.to_dict()))
  common = {
    name: value
    for name, value in fields.items()
    if not is_own(name)
    or (name == "teacher.layer" and values.config.teacher.path == RANDOM)
  }
  flags = {
    name: value
    for name, value in vars(values).items()
    if name not in ("config", "workdir", "changed_fields")
  }
  return repr(sorted(common.items())), repr(flags), repr(sorted(fields))
