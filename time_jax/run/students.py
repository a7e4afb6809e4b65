"""Values of several students of one run, side by side under one set of names.

  {"student": {"params": p}}                <-> {"params": p}
  {"a": {"params": p}, "b": {"params": q}}  <-> {"a.params": p, "b.params": q}

A single student's values keep their names: so they are called in checkpoints
and metrics of all runs with one student.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

STUDENTS = ("student",)  # of a run today


def join(values: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
  """Returns the values of all students in one mapping.

  Args:
    values: the values of each student by their names, by student.
  """
  if len(values) == 1:
    return dict(*values.values())
  return {
    f"{student}.{name}": value
    for student, own in values.items()
    for name, value in own.items()
  }


def split(
  joined: Mapping[str, T], students: Sequence[str]
) -> dict[str, dict[str, T]]:
  """Inverts `join`.

  Args:
    joined: result of `join`.
    students: names of the students in it.
  """
  if len(students) == 1:
    return {students[0]: dict(joined)}
  values: dict[str, dict[str, T]] = {student: {} for student in students}
  for name, value in joined.items():
    student, _, own = name.partition(".")
    values[student][own] = value
  return values
