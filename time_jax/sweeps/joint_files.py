"""Where points that are distilled in one run have their students.

SWEEP/joint-N is the folder of such a run. Its points.json says which student is
which point, and where a point has its own workdir of `distill`, there is a link
to joint-N/students/NAME: all that comes after finds the student where it would
be if it had been trained alone.
"""

import os
import pathlib
import re

from time_jax.checkpoint import layout
from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.core.storage import atomic_file
from time_jax.sweeps.grid import DISTILL
from time_jax.sweeps.points import Point

POINTS = "points.json"
_FOLDER = "joint-"
_LINK = re.compile(rf"(?:\.\./)+({_FOLDER}\d+)/{layout.STUDENTS}/\w+")


def index_of(point: Point) -> int:
  """Returns which stage of a point is its `distill`, from 0."""
  return [stage.name for stage in point.stages].index(DISTILL)


def place_of(point: Point) -> pathlib.Path:
  """Returns the workdir of a point's `distill`."""
  return point.stages[index_of(point)].values.workdir


def student_of(folder: pathlib.Path, student: str) -> pathlib.Path:
  """Returns the folder of a student of a group's run."""
  return folder / layout.STUDENTS / student


def next_folder(workdir: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the next group, which is not there yet."""
  numbers = [_number(folder) for folder in folders(workdir)]
  return workdir / f"{_FOLDER}{max(numbers, default=0) + 1}"


def is_free(place: pathlib.Path, workdir: pathlib.Path) -> bool:
  """Returns whether nothing was begun there, or only in a deleted group."""
  if not place.is_symlink():
    return not place.exists()
  match = _LINK.fullmatch(os.readlink(place))
  return bool(match) and not (workdir / match[1] / POINTS).exists()


def target(folder: pathlib.Path, student: str, place: pathlib.Path) -> str:
  """Returns where a point's place leads to, wherever the sweep's folder is."""
  return os.path.relpath(student_of(folder, student), place.parent)


def is_linked(folder: pathlib.Path, student: str, point: Point) -> bool:
  """Returns whether a point has its student in the run of a group."""
  place = place_of(point)
  wanted = target(folder, student, place)
  return place.is_symlink() and os.readlink(place) == wanted


def _number(folder: pathlib.Path) -> int:
  return int(folder.name.removeprefix(_FOLDER))


def folders(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of all groups so far, in the order of their numbers."""
  found = (
    path
    for path in workdir.glob(f"{_FOLDER}*")
    if re.fullmatch(rf"{_FOLDER}\d+", path.name)
  )
  return sorted(found, key=_number)


def read(folder: pathlib.Path) -> dict[str, str]:
  """Returns the points of a group by student; none where it was not begun."""
  path = folder / POINTS
  if not path.exists():
    return {}
  try:
    return {str(k): str(v) for k, v in atomic_file.read_json(path).items()}
  except DAMAGED_JSON as error:
    raise UserError(
      f"{path} is damaged; expected the point of each student, as in "
      '{"a_1": "a=1"}. Put it right, or delete the folder to distil anew.'
    ) from error
