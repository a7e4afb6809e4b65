"""A folder that is replaced atomically: written beside its place, then renamed.

While the folder NAME is written, `.NAME.unfinished` is the new one, and between
the last two renames `.NAME.replaced` is the old one.
"""

import contextlib
from collections.abc import Generator

from time_jax.core.errors import RunError, UserError, explain_unwritable
from time_jax.core.storage import lease
from time_jax.core.storage.paths import Path, delete


@contextlib.contextmanager
def atomic_folder(
  out: Path, flag: str, *, replace: bool = True
) -> Generator[Path, None, None]:
  """Yields an empty folder that becomes `out` if the block ends without error.

  What was at `out` stays until then. After a RunError the unfinished folder
  stays, to be looked at; the next attempt deletes it. After any other error it
  is deleted at once.

  Args:
    out: the folder to write, or to replace.
    flag: the flag by which the user gave it, such as `--out`.
    replace: whether to replace what `out` holds by then; see `check_empty`.

  Yields:
    The empty folder.

  Raises:
    UserError: the file system refuses, another process writes the folder, or
      it holds something that is not to be replaced.
    RunError: another process has taken this one's lease, see `lease.check`.
  """
  target = out.resolve()
  fresh, replaced = _beside(target)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    with lease.hold(target.with_name(f".{target.name}.lease"), f"{flag}={out}"):
      _restore_replaced(target)
      delete(fresh)
      delete(replaced)
      fresh.mkdir()
      try:
        yield fresh
        lease.check()
        if not replace:
          check_empty(out, flag)
        _put_in_place(fresh, target, replaced)
      except RunError:
        raise
      except BaseException:
        delete(fresh)
        raise
  except OSError as error:
    raise UserError(
      f"cannot write to {out} (see {flag}): {explain_unwritable(error)}."
    ) from error


def check_empty(out: Path, flag: str) -> None:
  """Refuses a folder that holds something, before work is done for it.

  Args:
    out: the folder to write.
    flag: the flag by which the user gave it, such as `--out`.

  Raises:
    UserError: it holds something, or is a file.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(
      f"{flag}={out} holds something; expected an empty or new folder: delete "
      "it or give another one."
    )


def explain_missing(out: Path) -> str:
  """Explains why a folder is missing that `atomic_folder` was replacing.

  A process that is killed between the two renames leaves no folder of that
  name, until the next attempt.

  Args:
    out: the folder.

  Returns:
    A sentence for the user; empty if the folder exists, or never did.
  """
  target = out.resolve()
  if target.exists():  # The root of the disk has no name to look beside.
    return ""
  fresh, replaced = _beside(target)
  if not replaced.exists():
    return ""
  return (
    f"{out} was about to be replaced when that was interrupted: what it held "
    f"is {replaced}, and what it was to hold {fresh}; run the command that "
    "writes it again, or give one of them its name."
  )


def _beside(target: Path) -> tuple[Path, Path]:
  """Returns where the new folder is written, and where the old one is kept."""
  return (
    target.with_name(f".{target.name}.unfinished"),
    target.with_name(f".{target.name}.replaced"),
  )


def _restore_replaced(target: Path) -> None:
  """Gives the old folder its name back where a killed process left none.

  The old one is known to be whole, unlike the new one after a crash of the
  machine.
  """
  _, replaced = _beside(target)
  if replaced.exists():
    _remove_empty(target)
    if not target.exists():
      replaced.replace(target)


def _remove_empty(folder: Path) -> None:
  """Removes a folder that holds nothing, so that another can have its name."""
  with contextlib.suppress(OSError):
    folder.rmdir()


def _put_in_place(fresh: Path, target: Path, replaced: Path) -> None:
  _remove_empty(target)
  if target.exists():
    target.replace(replaced)
  try:
    fresh.replace(target)
  except BaseException:
    _restore_replaced(target)
    raise
  delete(replaced)
