"""Points that are distilled in one run, as the students of one teacher."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from time_jax.config import command_line, warmup
from time_jax.config.command import Command
from time_jax.config.distill import check_config
from time_jax.config.fields import flatten
from time_jax.config.students import (
  effective,
  field_prefix,
  is_name,
  is_own,
  typed_of,
)
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.run import assembly, first_weights, members, students
from time_jax.sweeps.grid import DISTILL
from time_jax.sweeps.joint_files import (
  POINTS,
  folders,
  index_of,
  is_linked,
  place_of,
  read,
  target,
)
from time_jax.sweeps.points import Point, Stage
from time_jax.sweeps.stages import Record

_ALWAYS_NAMED = "student.num_layers"  # names a student that is like the rest


@dataclasses.dataclass(frozen=True)
class Group:
  """Points that are distilled in one run.

  Attributes:
    folder: folder of the run.
    points: the points by the names of their students.
    stage: the command.
  """

  folder: pathlib.Path
  points: Mapping[str, Point]
  stage: Stage

  def begin(self) -> None:
    """Makes the folder of the run and the links to it, unless they are there.

    The list of points comes last: where it is, all links have been made, and
    one that is missing was deleted by the user.
    """
    path = self.folder / POINTS
    if path.exists():
      return
    for student, point in self.points.items():
      place = place_of(point)
      place.parent.mkdir(parents=True, exist_ok=True)
      place.unlink(missing_ok=True)  # Of a run that was deleted, see `is_free`.
      place.symlink_to(target(self.folder, student, place))
    self.folder.mkdir(exist_ok=True)
    names = {student: point.name for student, point in self.points.items()}
    atomic_file.write_json(path, names)

  def waiting(self, records: Mapping[str, Record]) -> dict[str, Point]:
    """Returns the points that are to be distilled still, by student.

    Args:
      records: what is known of the stages of each point, by its name.
    """
    return {
      student: point
      for student, point in self.points.items()
      if is_linked(self.folder, student, point)
      and not records[point.name].finished(index_of(point))
    }


def begun(
  points: Sequence[Point],
  records: Mapping[str, Record],
  workdir: pathlib.Path,
  command: type[Command],
) -> list[Group]:
  """Returns the groups of earlier sessions that are not done.

  Args:
    points: the points of the sweep.
    records: what is known of the stages of each point, by its name.
    workdir: folder of the sweep.
    command: that of `distill`.

  Raises:
    UserError: a group cannot go on, as the sweep is another one now.
  """
  known = {
    point.name: point
    for point in points
    if [stage.name for stage in point.stages].count(DISTILL) == 1
  }
  found = []
  for folder in folders(workdir):
    names = read(folder)
    group = {s: known[name] for s, name in names.items() if name in known}
    left = Group(folder, group, Stage(DISTILL, (), None)).waiting(records)
    if not left:
      continue
    links = ", ".join(str(place_of(point)) for point in left.values())
    advice = (
      f"Undo the change, or delete {links}, to distil anew what was there."
    )
    if gone := [name for name in names.values() if name not in known]:
      raise UserError(
        f"{folder} trains {', '.join(names.values())} in one run, and the "
        f"sweep has no {', '.join(gone)} now. {advice}"
      )
    try:
      found.append(make(folder, group, command))
    except UserError as error:
      raise UserError(f"{folder} cannot go on: {error} {advice}") from error
  return found


def listed(points: Iterable[Point]) -> str:
  """Returns the names of points, as in a message."""
  return ", ".join(point.name for point in points)


def named(points: Sequence[Point]) -> dict[str, Point]:
  """Returns points by the names of their students."""
  found: dict[str, Point] = {}
  spelled = set()
  for point in points:
    name = re.sub(r"\W+", "_", point.name, flags=re.ASCII)
    if not is_name(name) or name.lower() in spelled:
      name = f"p{hashlib.sha256(point.name.encode()).hexdigest()[:8]}"
    spelled.add(name.lower())
    found[name] = point
  return found


def make(
  folder: pathlib.Path, points: Mapping[str, Point], command: type[Command]
) -> Group:
  """Returns a group whose command has been checked.

  Args:
    folder: folder of the run.
    points: the points by the names of their students.
    command: that of `distill`.

  Raises:
    UserError: they cannot be distilled in one run.
  """
  own = {name: point.stages[index_of(point)] for name, point in points.items()}
  words = [*_common_words(next(iter(own.values()))), f"--workdir={folder}"]
  base: Any = command_line.parse(command, words[1:])
  rest = dict(flatten(base.config.to_dict()))
  for name, stage in own.items():
    fields = dict(flatten(stage.values.config.to_dict()))
    # A typed field is never replaced by a fitting value, wherever it is equal.
    differing = [
      field
      for field, value in fields.items()
      if is_own(field)
      and (value != rest.get(field) or field in stage.values.changed_fields)
    ]
    words += [
      f"--config.students.{name}.{field}={fields[field]}"
      for field in differing or [_ALWAYS_NAMED]
    ]
  values = command_line.parse(command, words[1:])
  group = Group(folder, points, Stage(DISTILL, tuple(words), values))
  _check(group)
  return group


def _check(group: Group) -> None:
  """Raises UserError unless each student is trained as its point would be."""
  values = group.stage.values
  check_config(values.config)
  for name, config in effective(values.config).items():
    point = group.points[name]
    now = dict(flatten(config.to_dict()))
    asked = point.stages[index_of(point)].values.config.to_dict()
    if differing := sorted(
      field
      for field, value in (now | dict(flatten(asked))).items()
      if now.get(field, "nothing") != value
    ):
      others = ", ".join(p.name for p in group.points.values() if p != point)
      raise UserError(
        f"{point.name} differs from {others} in {', '.join(differing)}."
      )
  found = members.members(values.config, group.folder)
  for name, member in found.items():
    typed = typed_of(name, values.changed_fields)
    if warmup.FIELD in typed:
      place = field_prefix(name)
      warmup.fit(member.config.train, member.workdir, typed, place)
  # What an earlier stage makes is not there yet.
  sources = [values.config.teacher.path]
  sources += [member.config.student.init_from for member in found.values()]
  workdir = group.folder.parent
  if any(pathlib.Path(source).is_relative_to(workdir) for source in sources):
    return
  teacher = assembly.check_students(effective(values.config))
  for name, member in found.items():
    with students.naming(name):
      first_weights.check_source(
        member.config, member.workdir, teacher.vocab_size
      )


def _common_words(stage: Stage) -> Iterator[str]:
  """Yields the words of a `distill` but for its workdir and its own fields."""
  words = iter(stage.words)
  for word in words:
    flag, given, _ = word.lstrip("-").partition("=")
    if word.startswith("-") and (
      flag == "workdir" or is_own(flag.removeprefix("config."))
    ):
      if not given:
        next(words, None)  # The value is a word of its own.
    else:
      yield word
