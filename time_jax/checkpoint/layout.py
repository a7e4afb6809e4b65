"""Where the checkpoints of a run lie, read without JAX.

WORKDIR/checkpoints/STEP/params, rest, ema   trees of arrays
                        /metadata, metrics   JSON
                        /sha256.json         checksums, see `checksums`
WORKDIR/damaged/STEP                         set aside, see `quarantine`

A run of several students saves all of them in one checkpoint, so that they
always stand at the same step: their trees are `xs.params`, `xs.rest`, ...,
their scores `xs.eval/loss`, ..., and their records
{"students": {"xs": ...}}. Each student has a folder, which commands take like
the workdir of a run of its own; a file in it says where the checkpoints are:

WORKDIR/students/xs/member.json              {"run": "../..", "student": "xs"}
"""

import dataclasses
import time
from collections.abc import Sequence

from time_jax.config.students import ONE, own_name
from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.core.storage.atomic_file import read_json
from time_jax.core.storage.paths import Path

FOLDER = "checkpoints"
DAMAGED = "damaged"
METADATA = "metadata"  # the record of the run, beside the trees
METRICS = "metrics"  # scores; Orbax reads those of all checkpoints at its start
MEMBER = "member.json"
STUDENTS = "students"  # in a run's folder, its config and its records
_MOMENT = 0.3  # seconds


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the checkpoints of a student are.

  Attributes:
    run: folder of the run, which has them.
    student: its name among the students of the run; `ONE`: it has no other.
  """

  run: Path
  student: str = ONE

  def item(self, name: str) -> str:
    """Returns how a tree or a score of the student is called in them."""
    return own_name(self.student, name)


def checkpoints_of(workdir: Path) -> Place:
  """Returns where the checkpoints of a workdir are.

  Args:
    workdir: folder of a run, or of one of its students.

  Raises:
    UserError: it is the folder of a student whose run is not there.
  """
  path = workdir / MEMBER
  if not path.exists():
    return Place(workdir)
  try:
    content = read_json(path)
    student = str(content["student"])
    run = (workdir.resolve() / content["run"]).resolve()
  except (OSError, *DAMAGED_JSON) as error:
    raise UserError(
      f"{path} is damaged: {error!r}; expected "
      f'{{"run": "../..", "student": "{workdir.name}"}}.'
    ) from error
  if student not in students_of(run):
    raise UserError(
      f"{workdir} is the folder of the student {student} of a run of several, "
      f"which is not in {run}: expected {student} among the students of "
      f"{run}/config.json. Put the folder back, or move the run as a whole."
    )
  return Place(run, student)


def folder(workdir: Path) -> Path:
  """Returns the folder of a workdir's checkpoints, see `checkpoints_of`."""
  return checkpoints_of(workdir).run / FOLDER


def students_of(workdir: Path) -> list[str]:
  """Returns the names of a run's students, sorted; none if it has but one.

  Args:
    workdir: folder of the run.
  """
  try:
    return sorted(read_json(workdir / "config.json").get(STUDENTS) or {})
  except (OSError, *DAMAGED_JSON):
    return []  # Who needs the config says what is wrong with it.


def is_workdir(path: Path) -> bool:
  """Returns whether a folder is that of a run, or of one of its students."""
  return (path / FOLDER).is_dir() or (path / MEMBER).exists()


def check_one_student(workdir: Path) -> None:
  """Refuses the folder of a run of several students where one is expected.

  Args:
    workdir: folder of a run, or of one of its students.

  Raises:
    UserError: it is that of several.
  """
  if names := students_of(workdir):
    raise UserError(
      f"{workdir} holds the students {', '.join(names)}; expected one of them, "
      f"such as {workdir / STUDENTS / names[0]}."
    )


def data_folder(workdir: Path) -> Path:
  """Returns where the rows of a run are that has them in no other place.

  Args:
    workdir: folder of the run, or of one of its students.

  Raises:
    UserError: see `checkpoints_of`.
  """
  own = workdir / "data"
  return own if own.is_dir() else checkpoints_of(workdir).run / "data"


def step_folders(workdir: Path) -> list[Path]:
  """Returns the folders of a run's checkpoints by step; empty: none.

  Args:
    workdir: folder of the run, or of one of its students.

  Raises:
    UserError: see `checkpoints_of`.
  """
  try:
    paths = list(folder(workdir).iterdir())
  except OSError:
    return []
  steps = [p for p in paths if p.name.isdecimal() and p.is_dir()]
  return sorted(steps, key=lambda p: int(p.name))


def are_vanishing(folders: Sequence[Path]) -> bool:
  """Returns whether some checkpoints are gone, or are being deleted just now.

  It takes a moment, so it is asked only where one of them cannot be read. A
  damaged one stays as it is; of one that is being deleted, files vanish.

  Args:
    folders: folders of checkpoints that were all there before.
  """

  def count() -> int:
    return sum(1 for folder in folders for _ in folder.rglob("*"))

  if not all(folder.is_dir() for folder in folders):
    return True
  before = count()
  time.sleep(_MOMENT)
  return count() < before or not all(folder.is_dir() for folder in folders)
