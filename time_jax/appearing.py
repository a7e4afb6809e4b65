"""A folder that appears whole: written beside its place, then renamed."""

import contextlib
import pathlib
import shutil
from collections.abc import Generator

from time_jax.errors import RunError, UserError


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
    UserError: the file system refuses.
  """
  target = out.resolve()
  fresh = target.with_name(f".{target.name}.unfinished")
  replaced = target.with_name(f".{target.name}.replaced")
  try:
    for leftover in (fresh, replaced):
      shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    if target.exists():
      target.replace(replaced)
    fresh.replace(target)
    shutil.rmtree(replaced, ignore_errors=True)
  except RunError:
    raise
  except BaseException as error:
    shutil.rmtree(fresh, ignore_errors=True)
    if not isinstance(error, OSError):
      raise
    raise UserError(
      f"cannot write to {out}: {error.strerror or error}; expected a folder "
      f"with write permission and free space (see {flag})."
    ) from error
