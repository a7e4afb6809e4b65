"""Paths, and what is done to the files and folders at them.

`Path` is the one path type. It is pathlib's for now, as most files are also
read by libraries that want a file of this machine (safetensors, ArrayRecord,
SentencePiece), and `etils.epath.Path`, which knows gs:// and s3://, is no
subclass of it. The methods of both have the same names. So buckets will need a
change in this folder only, if paths are made here and what epath lacks stays
here: flushing to disk, hard links, times, `is_symlink`.
"""

import contextlib
import pathlib
import re
import shutil
import time

from time_jax.core.errors import UserError, explain_unwritable

Path = pathlib.Path


def local_path(text: str) -> Path:
  """Returns the path that a user typed.

  Args:
    text: a path; `~` stands for the home folder.

  Raises:
    UserError: it is an address, which would become a folder called `gs:`; or
      in the home folder of a user who is not known.
  """
  if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
    raise UserError(
      f"{text} is an address; expected a path on a file system of this "
      "machine: mount what it names, or copy it here."
    )
  try:
    return Path(text).expanduser()
  except RuntimeError as error:
    raise UserError(
      f"{text}: there is no home folder of that name on this machine."
    ) from error


def prepare_workdir(workdir: Path) -> None:
  """Makes a folder, with its parents, and proves that it can be written to.

  Args:
    workdir: the folder; it may exist.

  Raises:
    UserError: the file system refuses.
  """
  probe = workdir / f".write-test-{time.time_ns()}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.write_text("x")
    probe.unlink()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written to: {explain_unwritable(error)}."
    ) from error


def list_files(folder: Path, pattern: str = "**/*") -> list[Path]:
  """Returns the files of a folder, sorted; none if it does not exist.

  Args:
    folder: where to look.
    pattern: pattern of `pathlib.Path.glob`; by default files at any depth.
  """
  return sorted(path for path in folder.glob(pattern) if path.is_file())


def delete(path: Path) -> None:
  """Deletes a file, or a folder with all that it holds, as far as it can."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink()
