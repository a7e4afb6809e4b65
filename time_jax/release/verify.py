"""Whether a Hugging Face folder is what it should be.

What can be told depends on what there is to compare with. An export of ours
carries, in time_jax.json, hashes of its files and a fingerprint: what the
checkpoint's own parameters made of fixed inputs before a file was written. In
any other folder weights that load but are wrong look like right ones, unless
PyTorch and JAX disagree about them; the output says so.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from time_jax.core.display import aligned_table
from time_jax.core.errors import EXIT_BAD_INPUT, RunError, UserError
from time_jax.hf import files
from time_jax.release import checks
from time_jax.release.model_folder import (
  ModelFolder,
  NotCheckedError,
  read_record,
)
from time_jax.run import saved_student


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of a check.

  Attributes:
    name: name of the check.
    text: what was found, in words.
    ok: whether it is right; None where it could not be checked.
  """

  name: str
  text: str
  ok: bool | None


def verify_command(
  name: str, against: pathlib.Path | None, allow_pickle: bool = False
) -> int:
  """Checks a folder and prints what was found.

  Args:
    name: a folder, package or hub id, see `files.resolve`.
    against: a run's workdir to compare with, or None.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    0, or EXIT_BAD_INPUT if something is wrong.
  """
  folder = files.resolve(name, allow_pickle)
  student = None
  if against:
    # Another step than the exported one would differ for a good reason.
    step = (read_record(folder) or {}).get("step")
    student = saved_student.read_student(against, step)
  results = verify(folder, student, allow_pickle=allow_pickle)
  print(f"{folder}{'' if student else ': without --against a run'}")
  print(table(results))
  wrong = [result.name for result in results if result.ok is False]
  if wrong:
    print(f"{len(wrong)} problem(s): {', '.join(wrong)}.")
    return EXIT_BAD_INPUT
  skipped = sum(result.ok is None for result in results)
  print(f"No problem found; {skipped} of {len(results)} could not be checked.")
  return 0


def table(results: Sequence[Result]) -> str:
  """Returns aligned lines, problems marked."""
  marks = {True: "ok", False: "WRONG", None: "-"}
  return aligned_table(
    [[f"  {marks[r.ok]:<5}", r.name, r.text] for r in results]
  )


def verify(
  folder: pathlib.Path,
  student: saved_student.Student | None = None,
  with_card: bool = True,
  allow_pickle: bool = False,
) -> list[Result]:
  """Checks everything, whatever was found wrong before.

  Args:
    folder: a model's folder.
    student: the student that it should be, if there is one.
    with_card: whether README.md is checked.
    allow_pickle: see `weight_files.find_weights`.
  """
  opened = ModelFolder(folder, student, allow_pickle)
  results: dict[str, Result] = {}
  for check in checks.CHECKS:
    if check is checks.CARD and not with_card:
      continue
    ok: bool | None = True
    try:
      if check.needs and not results[check.needs].ok:
        raise NotCheckedError(f"see {check.needs}")
      text = check.run(opened)
    except NotCheckedError as reason:
      ok, text = None, f"not checked: {reason}"
    except (UserError, RunError) as error:
      ok, text = False, str(error)
    results[check.name] = Result(check.name, text, ok)
  return list(results.values())
