"""A folder that appears whole: written beside its place, then renamed."""

import contextlib
import pathlib
import shutil
from collections.abc import Generator

from time_jax.core.errors import RunError, UserError, unwritable
from time_jax.core.storage import lease


@contextlib.contextmanager
def appearing(
  out: pathlib.Path, flag: str
) -> Generator[pathlib.Path, None, None]:
  """Gives a fresh folder, which takes the place of `out` when all went well.

  What was at `out` stays until then. After a RunError the fresh folder stays,
  to be looked at; the next attempt removes it, as any other failure does.

  Args:
    out: the folder to be; what it holds is replaced.
    flag: where the user gave it.

  Raises:
    UserError: the file system refuses, or another process writes the folder.
    RunError: another process has taken over, see `lease.check`.
  """
  target = out.resolve()
  fresh, replaced = _beside(target)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    with lease.hold(target.with_name(f".{target.name}.lease"), f"{flag}={out}"):
      _put_back(target)
      for leftover in (fresh, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
      fresh.mkdir()
      try:
        yield fresh
        lease.check()
        _put_in_place(fresh, target, replaced)
      except RunError:
        raise
      except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
  except OSError as error:
    raise UserError(
      f"cannot write to {out} (see {flag}): {unwritable(error)}."
    ) from error


def interrupted(out: pathlib.Path) -> str:
  """Why a folder is gone that was there; empty: it is there, or never was.

  Between two renames it has no name of its own; a process that is killed just
  then leaves it so, until the next attempt.
  """
  target = out.resolve()
  fresh, replaced = _beside(target)
  if target.exists() or not replaced.exists():
    return ""
  return (
    f"{out} was about to be replaced when that was interrupted: what it held "
    f"is {replaced}, and what it was to hold {fresh}; run the command that "
    "writes it again, or give one of them its name."
  )


def _beside(target: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Where the new folder is written, and where the old one is kept."""
  name = target.name
  return (
    target.with_name(f".{name}.unfinished"),
    target.with_name(f".{name}.replaced"),
  )


def _put_back(target: pathlib.Path) -> None:
  """The folder of before, where a killed process left none.

  It is known to be whole, unlike the new one after a crash of the machine.
  """
  _, replaced = _beside(target)
  if replaced.exists():
    _remove_empty(target)
  if replaced.exists() and not target.exists():
    replaced.replace(target)


def _remove_empty(folder: pathlib.Path) -> None:
  """Removes a folder in which there is nothing to be kept."""
  with contextlib.suppress(OSError):
    folder.rmdir()


def _put_in_place(
  fresh: pathlib.Path, target: pathlib.Path, replaced: pathlib.Path
) -> None:
  _remove_empty(target)
  if target.exists():
    target.replace(replaced)
  try:
    fresh.replace(target)
  except BaseException:
    _put_back(target)
    raise
  shutil.rmtree(replaced, ignore_errors=True)
