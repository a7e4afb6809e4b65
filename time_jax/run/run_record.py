"""The record of a run in its checkpoints, by which it is known again."""

import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from time_jax.checkpoint.layout import STUDENTS
from time_jax.config import changes
from time_jax.config.fields import flatten
from time_jax.config.recorded import completed, differences
from time_jax.config.students import ONE, field_prefix
from time_jax.core.display import first_of
from time_jax.core.errors import UserError
from time_jax.hf import files, weight_files
from time_jax.models.family import Teacher
from time_jax.parallel import host_collectives
from time_jax.run import assembly, corpus, hidden_states, students
from time_jax.run.members import Member

TEACHER = "teacher weights (SHA-256)"
TEXT = "prepared text (SHA-256)"  # of the settings that rows were made with
PROJECTION = "hidden projection (SHA-256)"  # where one is used
ROWS = "prepared rows (SHA-256)"  # of the rows themselves
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")
# Paths may differ between hosts: what lies there is compared instead.
_PATHS = ("data.folder", "hidden.projection", "teacher.path")


def make_record(
  member: Member, teacher: Teacher, rows: corpus.Corpus
) -> dict[str, Any]:
  """Returns what every checkpoint of a run records of it, as JSON values.

  Args:
    member: a student of the run.
    teacher: its teacher.
    rows: the run's text.

  Returns:
    run: all that shapes the result.
    teacher: where the teacher came from.
    versions, hardware: what this session runs with and on.
  """
  config = member.config
  run = json.loads(config.to_json()) | {
    TEACHER: teacher.fingerprint,
    "tokenizer (SHA-256)": rows.tokenizer,
    TEXT: rows.fingerprint,
    ROWS: rows.content,
  }
  projection = hidden_states.projection_sha256(
    config, teacher.hidden_size, member.workdir
  )
  if projection:
    run[PROJECTION] = projection
  return {
    "run": run,
    "teacher": assembly.teacher_origin(config),
    "versions": versions(),
    "hardware": hardware(),
  }


def versions() -> dict[str, str]:
  """Returns the versions of the packages that shape a result."""
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


def hardware() -> dict[str, Any]:
  """Returns kind and number of devices, and the number of processes."""
  return {
    "kind": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "processes": jax.process_count(),
  }


def of_checkpoint(records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
  """Returns the record of a checkpoint.

  Args:
    records: that of each student.
  """
  return records.get(ONE) or {STUDENTS: dict(records)}


def _own(student: str, record: dict[str, Any]) -> dict[str, Any]:
  """Returns what the record of a checkpoint says of a student."""
  return record if student == ONE else record[STUDENTS][student]


def _compared(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yields what all processes of a run have to have in common, by name."""
  for field, value in flatten({p: record[p] for p in ("run", "versions")}):
    name = field.removeprefix("run.")
    if name not in _PATHS:
      yield name, value


def check_processes(records: Mapping[str, dict[str, Any]]) -> None:
  """Checks that all processes make the same run; all must call it.

  Args:
    records: by student, "run" and "versions" as in `make_record`.

  Raises:
    UserError: in all processes, naming what differs between which.
  """
  mine = students.join(
    {name: dict(_compared(record)) for name, record in records.items()}
  )
  texts = host_collectives.all_gather(json.dumps(mine))
  first, *others = map(json.loads, texts)
  problems = [
    f"{name} is {first.get(name, '(absent)')!r} in "
    f"process 0, {other.get(name, '(absent)')!r} in process {index}"
    for index, other in enumerate(others, 1)
    for name in sorted(first | other)
    if first.get(name) != other.get(name)
  ]
  if problems:
    raise UserError(
      f"the processes would not make one run: {first_of(problems, 5)}; "
      "expected the same command, packages, weights and text on all hosts."
    )


def check_same(
  before: dict[str, Any], records: Mapping[str, dict[str, Any]], step: int
) -> None:
  """Checks that a run goes on as it began; prints what else has changed.

  Args:
    before: record of the newest checkpoint.
    records: that of each student in this session.
    step: step of that checkpoint.

  Raises:
    UserError: something that shapes the result has changed.
  """
  lines = {
    name: _compare(name, _own(name, before), record, step)
    for name, record in records.items()
  }
  if jax.process_index() == 0:
    for line in students.told(lines):
      print(f"changed since step {step}: {line}", file=sys.stderr, flush=True)


def _compare(
  student: str, before: dict[str, Any], now: dict[str, Any], step: int
) -> list[str]:
  """Returns a line for each harmless change; raises UserError for others."""
  # Older runs did not record their rows.
  before, now = before["run"], now["run"]
  before = {ROWS: now[ROWS]} | completed(before)
  compared, train, planned = before, before["train"], now["train"]["changes"]
  if changes.agree(train["changes"], planned, step):
    compared = before | {"train": train | {"changes": planned}}
  if changed := differences(compared, now):
    raise UserError(
      "this workdir belongs to another run: "
      + students.about(student, "; ".join(changed))
      + ". Use another --workdir, or the same settings to continue."
      + _other_weights(before, now)
      + _as_change(student, compared, now, step)
    )
  return differences(before, now) + differences(before, now, harmless=True)


def check_inputs(record: Mapping[str, Any], now: Mapping[str, str]) -> None:
  """Checks that a checkpoint is measured by what it was trained with.

  Args:
    record: what the checkpoint recorded of its run; an imported student has
      none.
    now: `TEACHER`, and perhaps `PROJECTION`, and their hashes now.

  Raises:
    UserError: something is not what it was.
  """
  run = record.get("run") or {}
  for name, value in now.items():
    if (before := run.get(name, value)) != value:
      field = {TEACHER: "teacher.path", PROJECTION: "hidden.projection"}[name]
      raise UserError(
        f"{name} was {before[:12]} when the student was trained, and is "
        f"{value[:12] or 'absent'} now, of {field} in the run's config.json; "
        "put back the files that it was trained with."
        + (_about_teacher(run, now) if name == TEACHER else "")
      )


def _about_teacher(run: dict[str, Any], now: Mapping[str, str]) -> str:
  """Returns what `_other_weights` says, if the recorded folder is there."""
  with contextlib.suppress(UserError):
    return _other_weights(run, {**run, **now})
  return ""


def _other_weights(before: dict[str, Any], now: dict[str, Any]) -> str:
  """Says why a teacher whose files did not change may have other weights."""
  path, allow_pickle = now["teacher"]["path"], now["teacher"]["allow_pickle"]
  if before.get(TEACHER) == now[TEACHER] or path == assembly.RANDOM:
    return ""
  folder = files.resolve(path, allow_pickle)
  layout = weight_files.find_weights(folder, allow_pickle)
  if not layout.ignored_index:
    return ""
  single = layout.paths[0].name
  return (
    f" {folder} holds {single} and {layout.ignored_index}: earlier versions "
    "read the files that the index names, this one reads the whole file. If "
    f"the run began with those, move {single} to another folder and start it "
    "again."
  )


def _as_change(
  student: str, before: dict[str, Any], now: dict[str, Any], step: int
) -> str:
  """Says how to use `train.changes` instead, where the run could go on so."""
  train, train_now = before["train"], now["train"]
  later = {name: train_now[name] for name in changes.FIELDS}
  if differences(before | {"train": train | later}, now):
    return ""
  return changes.instead(train, train_now, step, field_prefix(student))
