"""The seal of a checkpoint: hashes of its files, to tell when one is damaged.

Orbax reads an array whose bytes have changed on disk back without a word. So a
checkpoint gets `sha256.json`, written by the thread that saves it, as the last
file before the folder gets its name: a finished checkpoint has it.
"""

import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from time_jax.core.errors import DAMAGED_JSON, UserError, is_unseen
from time_jax.core.storage import atomic_file

FILE = "sha256.json"
DAMAGED = "damaged"
_MOMENT = 0.3  # seconds
METRICS = "metrics"  # What Orbax reads of all checkpoints when it starts.


def write(folder: pathlib.Path) -> None:
  """Seals a checkpoint: its folders of items, not what lies beside them.

  Raises:
    OSError: the disk is full, say.
  """
  paths = (path for path in sorted(folder.glob("*/**/*")) if path.is_file())
  atomic_file.write_json(folder / FILE, _entries(folder, paths))


def add(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Adds a file that a sealed checkpoint got later.

  Raises:
    OSError: the disk is full, say.
  """
  known = json.loads((folder / FILE).read_text(encoding="utf-8"))
  atomic_file.write_json(folder / FILE, known | _entries(folder, [path]))


def is_sealed(folder: pathlib.Path) -> bool:
  """Whether it has a seal: those of older versions have none."""
  return (folder / FILE).exists()


def of_item(folder: pathlib.Path, item: str) -> str:
  """A hash of all that the seal says of one folder of a checkpoint.

  Args:
    folder: of the checkpoint.
    item: name of the folder in it.

  Returns:
    Empty where there is no seal, or none of that folder.
  """
  try:
    known = json.loads((folder / FILE).read_text(encoding="utf-8"))
    own = sorted(e for e in known.items() if e[0].startswith(f"{item}/"))
  except (OSError, *DAMAGED_JSON):
    return ""
  return hashlib.sha256(json.dumps(own).encode()).hexdigest() if own else ""


def damage(
  folder: pathlib.Path, items: Collection[str] = (), quick: bool = False
) -> str:
  """What is wrong with a sealed checkpoint; empty if nothing is.

  Args:
    folder: of the checkpoint.
    items: names of its folders to look at; empty: all.
    quick: only sizes are compared, no file is read.

  Raises:
    OSError: its storage is gone, which says nothing of the checkpoint.
  """
  try:
    files = json.loads((folder / FILE).read_text(encoding="utf-8"))
    wanted = {
      name: (int(size), str(sha256))
      for name, (size, sha256) in files.items()
      if not items or name.partition("/")[0] in items
    }
    if any({"/", ".."} & set(pathlib.Path(name).parts) for name in wanted):
      raise ValueError("a file of another folder")
  except (OSError, *DAMAGED_JSON) as error:
    if is_unseen(error):
      raise
    return f"{FILE} cannot be read ({type(error).__name__})"
  for name, (size, sha256) in wanted.items():
    path = folder / name
    try:
      found = path.stat().st_size
      if found != size:
        return f"{name} has {found:,} bytes instead of {size:,}"
      if not quick and _sha256(path) != sha256:
        return f"{name} has other content than was written"
    except (OSError, ValueError) as error:  # Or a name that no file can have.
      if is_unseen(error):
        raise
      reason = getattr(error, "strerror", None) or error
      return f"{name} cannot be read ({reason})"
  return ""


def is_going(folders: Sequence[pathlib.Path]) -> bool:
  """Whether any of some checkpoints is gone, or is being deleted just now.

  Asked only where one cannot be read, since a moment passes. A damaged one
  stays as it is; of one that is being deleted, files vanish.

  Args:
    folders: of the checkpoints, which were all there.
  """

  def count() -> int:
    return sum(1 for folder in folders for _ in folder.rglob("*"))

  if not all(folder.is_dir() for folder in folders):
    return True
  before = count()
  time.sleep(_MOMENT)
  return count() < before or not all(folder.is_dir() for folder in folders)


def set_aside(
  workdir: pathlib.Path, unreadable: Callable[[pathlib.Path], str]
) -> list[str]:
  """Moves damaged checkpoints to WORKDIR/damaged; nothing is deleted.

  From the newest down to the first sound one. Of those behind it only the
  scores are looked at.

  Args:
    workdir: of the run.
    unreadable: tells what is wrong with a checkpoint without a seal.

  Returns:
    A line about each: which, why, where it is now.

  Raises:
    UserError: the one of step 0, which no run can make again.
    OSError: one cannot be moved, or the storage is gone.
  """
  lines: list[str] = []
  sound: list[str] = []
  for folder in reversed(step_folders(workdir)):
    if is_sealed(folder):
      why = damage(folder, [METRICS] if sound else ())
    else:
      why = "" if sound else unreadable(folder)
    if not why:
      sound.append(folder.name)
      continue
    if folder.name == "0":
      raise UserError(
        f"the imported student {folder} is damaged: {why}; `time_jax import` "
        "it again, into a new workdir."
      )
    place = _move(folder, workdir / DAMAGED)
    lines.append(
      f"the checkpoint of step {folder.name} is damaged: {why}. It was moved "
      f"to {place}; "
    )
  goes_on = f"after step {sound[0]}" if sound else "anew: no other is left"
  return [f"{line}the run continues {goes_on}." for line in lines]


def step_folders(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The folders of a run's checkpoints, by step; empty if there are none."""
  try:
    found = list((workdir / "checkpoints").iterdir())
  except OSError:
    return []
  steps = [p for p in found if p.name.isdecimal() and p.is_dir()]
  return sorted(steps, key=lambda p: int(p.name))


def _move(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
  to.mkdir(exist_ok=True)
  number, place = 1, to / folder.name
  while place.exists():
    number += 1
    place = to / f"{folder.name}-{number}"
  return folder.rename(place)


def _entries(
  folder: pathlib.Path, paths: Iterable[pathlib.Path]
) -> dict[str, tuple[int, str]]:
  return {
    str(path.relative_to(folder)): (path.stat().st_size, _sha256(path))
    for path in paths
  }


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
