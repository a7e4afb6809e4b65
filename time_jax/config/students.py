"""Several students of one teacher, as a config names them.

`config.students.NAME` is a part of a config: the fields in which student NAME
differs from the rest. So `students.xs.train.peak_lr` is what xs has in place of
`train.peak_lr`. Steps, text and length are common to all; see `OWN` for what
may differ. A config that names nobody has one student, that of its section
`student`.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from time_jax.config.fields import flatten, unknown
from time_jax.core.errors import UserError

ONE = "student"  # the name of the one student of a config that names nobody
# Fields of which a student may have its own; of a section: all in it.
OWN = (
  "student.",
  "relations.",
  "hidden.",
  "teacher.layer",
  *("train.peak_lr", "train.warmup_steps", "train.b1", "train.b2"),
  *("train.eps", "train.weight_decay", "train.clip_norm", "train.dtype"),
  *("train.spike", "train.max_skipped", "train.changes", "train.ema"),
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_KINDS = {
  bool: (bool, "true or false"),
  int: (int, "a whole number"),
  float: (int | float, "a number"),
  str: (str, "a text"),
}


def is_own(field: str) -> bool:
  """Returns whether a student may have a field of its own, by its full name."""
  return any(
    field.startswith(own) if own.endswith(".") else field == own for own in OWN
  )


def is_name(name: str) -> bool:
  """Returns whether a student may be called so."""
  return not [*_wrong_name(name)]


def own_name(student: str, name: str) -> str:
  """Returns what a student's value is called beside those of the others."""
  return name if student == ONE else f"{student}.{name}"


def field_prefix(student: str) -> str:
  """Returns what stands before the config fields of a student."""
  return "" if student == ONE else f"students.{student}."


def effective(config: ConfigDict) -> dict[str, ConfigDict]:
  """Returns the config of each student, as if it were trained alone.

  Args:
    config: config of the run, which has no `problems`. What is a reference in
      it becomes a value, so it has to be complete, with all that was typed.

  Returns:
    Student -> its config, sorted by name. Of a config that names nobody it is
    the very same object, by the name `ONE`; others are copies.
  """
  content, parts = _split(config)
  if not parts:
    return {ONE: config}
  found = {}
  for name, part in sorted(parts.items()):
    found[name] = ConfigDict(content | {"students": {}})
    found[name].update_from_flattened_dict(dict(flatten(part)))
  return found


def problems(config: ConfigDict) -> list[str]:
  """Returns a phrase for each mistake in how a config names its students.

  Args:
    config: config of a run. Whether a value is in its range is no matter here:
      that is to be asked of each effective config.
  """
  content, parts = _split(config)
  common = dict(flatten(content))
  found: list[str] = []
  for name, part in sorted(parts.items()):
    if isinstance(part, dict):
      found += _wrong_name(name)
      for field, value in flatten(part):
        wrong = _misplaced(name, field, common)
        found += wrong or _other_kind(name, field, value, common[field])
    else:
      found.append(
        f"students.{name}={part!r}, expected a section with fields such as "
        "student.num_layers"
      )
  return found or [*_do_not_go_together(config)]


def name_students(
  config: ConfigDict, students: Mapping[str, Mapping[str, Any]]
) -> None:
  """Names the students of a recipe.

  Args:
    config: config of the recipe, which names nobody yet.
    students: student -> what it has of its own, as {"student.num_layers": 4}.

  Raises:
    UserError: a name or a field is not one that a student can have.
  """
  fields = {
    f"students.{name}.{field}": value
    for name, own in students.items()
    for field, value in own.items()
  }
  add_places(config, [*(f"students.{name}" for name in students), *fields])
  config.update_from_flattened_dict(fields)


def add_places(config: ConfigDict, typed: Iterable[str]) -> None:
  """Makes fields of students that are typed exist, so that they can be set.

  Each gets the common value, whose type is that of what is typed. Where the
  config names nobody, typing a student's field names it, as does
  `--config.students.NAME={}`.

  Args:
    config: config of the recipe.
    typed: names of the fields that are typed, as "students.xs.train.peak_lr".

  Raises:
    UserError: there is no such student, or it can have no such field.
  """
  if "students" not in config:
    return  # It is one of another task.
  content, parts = _split(config)
  common = dict(flatten(content))
  for place in typed:
    section, name, field = (*place.split(".", 2), "", "")[:3]
    if section != "students" or not name:
      continue
    if parts and name not in parts:
      raise UserError(unknown("student", name, parts))
    wrong = [*_wrong_name(name)]
    if field:
      wrong += _misplaced(name, field, common)
    if wrong:
      raise UserError(f"{wrong[0]}.")
    if field:
      _put(config.students, [name, *field.split(".")], common[field])
    elif name not in config.students:
      _put(config.students, [name], ConfigDict())  # As the others in all.


def typed_of(name: str, typed: Collection[str]) -> frozenset[str]:
  """Returns the typed fields of a student's effective config.

  Args:
    name: the student.
    typed: names of the fields of the whole config that were typed.
  """
  prefix = f"students.{name}."
  return frozenset(
    field.removeprefix(prefix)
    for field in typed
    if field.startswith(prefix) or not field.startswith("students.")
  )


def unused(config: ConfigDict, typed: Collection[str]) -> list[str]:
  """Returns a phrase for each typed field that each student has of its own.

  Args:
    config: config of the run, which has no `problems`.
    typed: names of the fields that were typed.
  """
  content, parts = _split(config)
  common = dict(flatten(content))
  # What is a reference may well follow the field that was typed.
  values = config.to_dict(preserve_field_references=True).get("students", {})
  own = [
    {name for name, value in flatten(part) if not _is_reference(value)}
    for part in values.values()
  ]
  return [
    f"--config.{field}={common[field]} changes nothing: {_listed(parts)} each "
    f"have their own; expected --config.students.NAME.{field}"
    for field in sorted(typed)
    if own and field in common and all(field in fields for fields in own)
  ]


def _split(config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the common part, and student -> part; of other tasks: nobody."""
  content = config.to_dict()
  return content, content.pop("students", {})


def _is_reference(value: Any) -> bool:
  return isinstance(value, FieldReference)


def _listed(names: Iterable[str]) -> str:
  return ", ".join(sorted(names))


def _wrong_name(name: str) -> Iterator[str]:
  """Yields a phrase on a name that no student can have."""
  if not _NAME.fullmatch(name):
    yield (
      f"students.{name}: expected a name of letters, digits and _, which "
      "begins with a letter, of at most 40"
    )
  elif name == ONE or hasattr(ConfigDict, name):
    yield f"students.{name}: this name is reserved; choose another"


def _misplaced(name: str, field: str, common: Collection[str]) -> list[str]:
  """Returns a phrase on a field that a student cannot have, if it is one."""
  place = f"students.{name}.{field}"
  if field not in common:
    sections = f"{field}.", f"{field.rpartition('.')[0]}."
    known = [own for own in common if is_own(own)]
    near = [own for own in known if own.startswith(sections)] or known
    return [f"students.{name}: " + unknown("field", field, near).rstrip(".")]
  if is_own(field):
    return []
  if field == "seed":
    return [
      f"{place}: it orders the text, which is common; expected "
      f"students.{name}.student.seed"
    ]
  may = ", ".join(f"{own}*" if own.endswith(".") else own for own in OWN)
  return [
    f"{place}: all students have the same; set {field}, or one of {may} for "
    f"{name} alone"
  ]


def _other_kind(name: str, field: str, value: Any, common: Any) -> list[str]:
  """Returns a phrase on a value of another type than the common one."""
  allowed, expected = _KINDS.get(type(common), (object, "another"))
  fits = isinstance(value, allowed)
  if fits and isinstance(value, bool) <= isinstance(common, bool):
    return []
  return [f"students.{name}.{field}={value!r}, expected {expected}"]


def _put(tree: ConfigDict, path: list[str], value: Any) -> None:
  """Sets a field, whatever there was; makes the sections that it lies in."""
  first, *rest = path
  with tree.unlocked():
    if rest:
      if first not in tree:
        tree[first] = ConfigDict()
      if isinstance(tree[first], ConfigDict):  # Else `problems` says so.
        _put(tree[first], rest, value)
    else:
      if first in tree:
        del tree[first]  # It may be of another type, or a reference to a field.
      tree[first] = value


def _do_not_go_together(config: ConfigDict) -> Iterator[str]:
  """Yields a phrase for each reason why students cannot share a run."""
  students = effective(config)
  names = _listed(students)
  if len(students) == 1:
    return
  spelled = {name.lower(): name for name in sorted(students, reverse=True)}
  for name in sorted(students):
    if (first := spelled[name.lower()]) != name:
      yield (
        f"students.{first} and students.{name} would share a folder on some "
        "disks, expected names that differ in more than case"
      )
  if config.train.parallel == "pmap":
    yield (
      f"train.parallel='pmap' trains one student, not {names}; expected 'jit'"
    )
  layers = dict.fromkeys(own.teacher.layer for own in students.values())
  if config.teacher.path == "random" and len(layers) > 1:
    yield (
      "teacher.path='random' has other weights for each teacher.layer; "
      f"expected one layer for {names}, not {' and '.join(map(str, layers))}"
    )
