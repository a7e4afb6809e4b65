"""The students of a run: the config and the folder of each.

A run of one student has everything in its workdir. One of several has their
records and files in WORKDIR/students/NAME, each like the workdir of a run of
its own; text, checkpoints and profile are in WORKDIR, see `checkpoint.layout`.
"""

import dataclasses
import json
from collections.abc import Mapping

from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.config.students import ONE, effective
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path, prepare_workdir


@dataclasses.dataclass(frozen=True)
class Member:
  """A student of a run.

  Attributes:
    config: its config, as if it were trained alone.
    workdir: folder of its records and files.
  """

  config: ConfigDict
  workdir: Path


def members(config: ConfigDict, workdir: Path) -> dict[str, Member]:
  """Returns the students of a run by name; of one student, the run itself.

  Args:
    config: config of the run. Later changes of it reach the students only
      where there is one.
    workdir: folder of the run.
  """
  configs = effective(config)
  if configs.keys() == {ONE}:
    return {ONE: Member(config, workdir)}
  return {
    name: Member(own, workdir / layout.STUDENTS / name)
    for name, own in configs.items()
  }


def prepare_folders(members: Mapping[str, Member], workdir: Path) -> None:
  """Makes the folders of a run, and checks that it holds the same students.

  Args:
    members: the students.
    workdir: folder of the run.

  Raises:
    UserError: the workdir holds other students, is that of a student itself,
      or cannot be used.
  """
  prepare_workdir(workdir)
  place = layout.checkpoints_of(workdir)
  if place.student != ONE:
    raise UserError(
      f"{workdir} holds the student {place.student} of the run in {place.run}; "
      f"expected --workdir={place.run} to continue that run, or a new folder "
      "for a new one."
    )
  names = [] if members.keys() == {ONE} else sorted(members)
  before = layout.students_of(workdir)
  begun = bool(before or layout.step_folders(workdir))
  if begun and before != names:
    raise UserError(
      f"{workdir} holds {_told(before)}; expected a config with the same, not "
      f"with {_told(names)}. Train others in another --workdir."
    )
  for member in members.values():
    prepare_workdir(member.workdir)


def _told(names: list[str]) -> str:
  return f"the students {', '.join(names)}" if names else "one student"


def write_places(
  members: Mapping[str, Member], config: ConfigDict, workdir: Path
) -> None:
  """Writes the config of a run of several students, and where they belong.

  Args:
    members: the students. For one student, nothing is written here.
    config: config of the run.
    workdir: folder of the run.
  """
  if members.keys() == {ONE}:
    return
  atomic_file.write_json(workdir / "config.json", json.loads(config.to_json()))
  for name, member in members.items():
    record = {"run": "../..", "student": name}
    atomic_file.write_json(member.workdir / layout.MEMBER, record)
