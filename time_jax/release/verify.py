"""Verifies that a Hugging Face folder holds the model that it should.

How much can be verified depends on what there is to compare with. The
time_jax.json of an export holds hashes of its files and a fingerprint: what
the checkpoint's parameters made of fixed inputs before any file was written.
In other folders wrong weights that load pass unseen, unless PyTorch and JAX
disagree about them; the output says so.
"""

import dataclasses
from collections.abc import Sequence

from time_jax.core.display import aligned_table
from time_jax.core.errors import EXIT_BAD_INPUT, RunError, UserError
from time_jax.core.storage.paths import Path
from time_jax.hf import files
from time_jax.release import checks
from time_jax.release.model_folder import ModelFolder, NotCheckedError
from time_jax.release.record import read_record
from time_jax.run import saved_student


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of a check.

  Attributes:
    name: name of the check.
    text: the finding, in words.
    ok: whether it passed; None where it could not be made.
  """

  name: str
  text: str
  ok: bool | None


def verify_command(
  name: str, against: Path | None, allow_pickle: bool = False
) -> int:
  """Runs all checks on a folder and prints their results.

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
    # Other steps of the run are expected to differ.
    record = read_record(folder) or {}
    student = saved_student.read_student(against, record.get("step"))
    if record.get(saved_student.DROP_LAST):
      student = student.without_last()
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
  """Returns the results as aligned lines, each marked ok, WRONG or -."""
  marks = {True: "ok", False: "WRONG", None: "-"}
  return aligned_table(
    [[f"  {marks[r.ok]:<5}", r.name, r.text] for r in results]
  )


def verify(
  folder: Path,
  student: saved_student.Student | None = None,
  with_card: bool = True,
  allow_pickle: bool = False,
) -> list[Result]:
  """Runs all checks on a folder, even after one has failed.

  Args:
    folder: a model's folder.
    student: the student to compare with; None: there is none.
    with_card: whether README.md is checked.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    The results, in the order of the checks.
  """
  opened = ModelFolder(folder, student, allow_pickle)
  results: dict[str, Result] = {}
  for check in checks.CHECKS:
    if check is checks.CARD and not with_card:
      continue
    ok: bool | None = True
    try:
      if check.of_heads and not opened.task_class:
        continue
      if check.needs and not results[check.needs].ok:
        raise NotCheckedError(f"see {check.needs}")
      text = check.run(opened)
    except NotCheckedError as reason:
      ok, text = None, f"not checked: {reason}"
    except (UserError, RunError) as error:
      ok, text = False, str(error)
    results[check.name] = Result(check.name, text, ok)
  return list(results.values())
