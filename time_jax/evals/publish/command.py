"""`export`: of a student, or of what was fine-tuned."""

import dataclasses

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.evals.publish import export_task
from time_jax.hf import fine_tuned
from time_jax.release import export as of_student
from time_jax.release import push
from time_jax.release.options import Options


def export_command(
  workdir: Path,
  *,
  step: int | None,
  out: Path | None,
  options: Options,
  push_to: str = "",
  private: bool = True,
  dry_run: bool = False,
) -> int:
  """Exports a student, and uploads it if a repository is named.

  Args:
    workdir: see `export`.
    step: see `export`.
    out: see `export`.
    options: what the export is to be.
    push_to: repository OWNER/NAME on the hub; "": nothing is uploaded.
    private: whether a repository that has to be made is private.
    dry_run: whether to list what would be uploaded instead of uploading it.

  Returns:
    The exit code, 0.
  """
  if push_to:
    push.check_name(push_to)
    if not dry_run:
      push.check_token()
    options = dataclasses.replace(options, name=push_to)
  elif dry_run or options.revision:
    raise UserError("--dry_run and --revision go with --push=OWNER/NAME.")
  folder = export(workdir, step, out, options)
  if push_to:
    push.push(
      folder,
      push_to,
      private=private,
      revision=options.revision,
      dry_run=dry_run,
    )
  is_run = not fine_tuned.is_fine_tuned(workdir)
  against = f" --against={workdir}" if is_run else ""
  print(f"Next: python -m time_jax verify {folder}{against}")
  return 0


def export(
  workdir: Path,
  step: int | None = None,
  out: Path | None = None,
  options: Options | None = None,
) -> Path:
  """Exports what a folder holds, and verifies it.

  Args:
    workdir: workdir of a run, see `release.export.export`; or the folder of a
      fine-tuned model, see `export_task.export_task`.
    step: see there.
    out: see there.
    options: see there.

  Returns:
    The folder that was written.

  Raises:
    UserError: see there.
    RunError: see there.
  """
  export_task.check_one_model(workdir)
  if fine_tuned.is_fine_tuned(workdir):
    return export_task.export_task(workdir, step, out, options or Options())
  return of_student.export(workdir, step, out, options)
