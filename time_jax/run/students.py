"""Values of the students of a run, side by side under one set of names.

  {"student": {"params": p}}                <-> {"params": p}
  {"a": {"params": p}, "b": {"params": q}}  <-> {"a.params": p, "b.params": q}

A student that has no name, as it is trained alone, is "student" in memory. Its
values keep their names: so they are called in checkpoints and metrics of all
runs with one student.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from time_jax.config.students import ONE, own_name
from time_jax.core.errors import UserError

T = TypeVar("T")


def join(values: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
  """Returns the values of all students in one mapping.

  Args:
    values: the values of each student by their names, by student.
  """
  return {
    own_name(student, name): value
    for student, own in values.items()
    for name, value in own.items()
  }


def split(
  joined: Mapping[str, T], students: Collection[str]
) -> dict[str, dict[str, T]]:
  """Inverts `join`.

  Args:
    joined: result of `join`.
    students: names of the students in it.
  """
  values: dict[str, dict[str, T]] = {student: {} for student in students}
  for name, value in joined.items():
    owner = ONE if ONE in values else name.partition(".")[0]
    values[owner][name.removeprefix(own_name(owner, ""))] = value
  return values


def about(student: str, text: str) -> str:
  """Returns a message that is about one of the students."""
  return text if student == ONE else f"{student}: {text}"


@contextlib.contextmanager
def naming(student: str) -> Iterator[None]:
  """Says in a UserError which of the students it is about."""
  try:
    yield
  except UserError as error:
    raise UserError(about(student, str(error))) from error


def told(lines: Mapping[str, Sequence[str]]) -> list[str]:
  """Returns lines on students: once what all have, else with the name.

  Args:
    lines: the lines on each student.
  """
  alike = [
    line
    for line in next(iter(lines.values()), ())
    if all(line in own for own in lines.values())
  ]
  return alike + [
    about(student, line)
    for student, own in lines.items()
    for line in own
    if line not in alike
  ]
