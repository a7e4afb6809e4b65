"""Checksums of a checkpoint's files, which tell when one is damaged.

Orbax reads an array whose bytes have changed on disk back without a word. So a
checkpoint gets `sha256.json`, written by the thread that saves it as the last
file before the folder gets its name: every finished checkpoint has it, but for
those of older versions.
"""

import hashlib
from collections.abc import Collection, Iterable

from time_jax.core.errors import DAMAGED_JSON, is_inconclusive
from time_jax.core.storage.atomic_file import read_json, write_json
from time_jax.core.storage.paths import Path, list_files

FILE = "sha256.json"


def write(folder: Path) -> None:
  """Writes the checksums of all files in a checkpoint's subfolders.

  Args:
    folder: folder of the checkpoint.

  Raises:
    OSError: they cannot be read, or not be written.
  """
  write_json(folder / FILE, _entries(folder, list_files(folder, "*/**/*")))


def add(folder: Path, path: Path) -> None:
  """Adds the checksum of a file that came later; see `write`.

  Args:
    folder: folder of the checkpoint, which has checksums.
    path: the file in it.
  """
  write_json(folder / FILE, read_json(folder / FILE) | _entries(folder, [path]))


def drop(folder: Path, path: Path) -> None:
  """Drops the checksum of a file that is about to change; see `add`.

  If the process is killed in between, the file has none, which is no damage.

  Args:
    folder: folder of the checkpoint, which has checksums.
    path: the file in it, which may be missing.
  """
  known = read_json(folder / FILE)
  if known.pop(str(path.relative_to(folder)), None):
    write_json(folder / FILE, known)


def exist(folder: Path) -> bool:
  """Returns whether a checkpoint has checksums."""
  return (folder / FILE).exists()


def name_item(folder: Path, item: str) -> bool:
  """Returns whether the checksums of a checkpoint name files of a subfolder.

  Args:
    folder: folder of the checkpoint, whose files may be vanishing just now.
    item: name of the subfolder, such as `params`.
  """
  try:
    return any(n.startswith(f"{item}/") for n in read_json(folder / FILE))
  except (OSError, *DAMAGED_JSON):
    return False


def find_damage(
  folder: Path, items: Collection[str] = (), *, quick: bool = False
) -> str:
  """Compares the files of a checkpoint with its checksums.

  Args:
    folder: folder of the checkpoint, which has checksums.
    items: names of the subfolders to look at; empty: all.
    quick: whether to compare sizes only, so that no file is read.

  Returns:
    What is wrong; empty if nothing is.

  Raises:
    OSError: the storage is gone, which says nothing of the checkpoint.
  """
  try:
    wanted = {
      name: (int(size), str(sha256))
      for name, (size, sha256) in read_json(folder / FILE).items()
      if not items or name.partition("/")[0] in items
    }
    if any({"/", ".."} & set(Path(name).parts) for name in wanted):
      raise ValueError("a file of another folder")
  except (OSError, *DAMAGED_JSON) as error:
    if is_inconclusive(error):
      raise
    return f"{FILE} cannot be read ({type(error).__name__})"
  for name, (size, sha256) in wanted.items():
    path = folder / name
    try:
      actual_size = path.stat().st_size
      if actual_size != size:
        return f"{name} has {actual_size:,} bytes instead of {size:,}"
      if not quick and _sha256(path) != sha256:
        return f"{name} has other content than was written"
    except (OSError, ValueError) as error:  # ValueError: no file has that name.
      if is_inconclusive(error):
        raise
      reason = getattr(error, "strerror", None) or error
      return f"{name} cannot be read ({reason})"
  return ""


def _entries(folder: Path, paths: Iterable[Path]) -> dict[str, tuple[int, str]]:
  """Returns name -> (size in bytes, SHA-256) of files."""
  return {
    str(path.relative_to(folder)): (path.stat().st_size, _sha256(path))
    for path in paths
  }


def _sha256(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
