"""Folders that a run writes to."""

import pathlib
import time

from time_jax.errors import UserError


def prepare_workdir(workdir: pathlib.Path) -> None:
  """Makes the folder and proves that it can be written to."""
  probe = workdir / f".write-test-{time.time_ns()}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe.write_text("x")
    probe.unlink()
  except OSError as error:
    raise UserError(
      f"--workdir={workdir} cannot be written to: {error.strerror or error}; "
      "expected a folder with write permission and free space."
    ) from error
