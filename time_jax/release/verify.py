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

from time_jax.core.errors import EXIT_BAD_INPUT, RunError, UserError
from time_jax.hf import files
from time_jax.release import checks
from time_jax.run import saved_student


@dataclasses.dataclass(frozen=True)
class Check:
  """One thing that was looked at.

  Attributes:
    name: what.
    found: in words.
    ok: None where it could not be checked.
  """

  name: str
  found: str
  ok: bool | None


def verify_command(
  name: str, against: pathlib.Path | None, allow_pickle: bool = False
) -> int:
  """Checks a folder and prints what was found.

  Args:
    name: of a model, see `files.resolve`.
    against: a run's workdir to compare with, or None.
    allow_pickle: see `files.weight_files`.

  Returns:
    0, or EXIT_BAD_INPUT if something is wrong.
  """
  folder = files.resolve(name, allow_pickle)
  student = None
  if against:
    # Another step than the exported one would differ for a good reason.
    record = checks.read_record(folder) or {}
    student = saved_student.read_student(against, record.get("step"))
  done = verify(folder, student, allow_pickle=allow_pickle)
  print(f"{folder}{'' if student else ': without --against a run'}")
  print(table(done))
  wrong = [check for check in done if check.ok is False]
  if wrong:
    print(f"{len(wrong)} problem(s): {', '.join(c.name for c in wrong)}.")
    return EXIT_BAD_INPUT
  skipped = sum(check.ok is None for check in done)
  print(f"No problem found; {skipped} of {len(done)} could not be checked.")
  return 0


def table(done: Sequence[Check]) -> str:
  """Aligned lines, problems marked."""
  marks = {True: "ok", False: "WRONG", None: "-"}
  width = max(len(check.name) for check in done)
  return "\n".join(
    f"  {marks[c.ok]:<6} {c.name:<{width}}  {c.found}" for c in done
  )


def verify(
  folder: pathlib.Path,
  against: saved_student.Student | None = None,
  with_card: bool = True,
  allow_pickle: bool = False,
) -> list[Check]:
  """Checks everything, whatever was found wrong before.

  Args:
    folder: of a model.
    against: the student that it should be, if there is one.
    with_card: whether README.md is looked at.
    allow_pickle: see `files.weight_files`.
  """
  opened = checks.Opened(folder, against, allow_pickle)
  done: list[Check] = []
  for name, check, needs in checks.CHECKS:
    if name == "model card" and not with_card:
      continue
    failed = [c.name for c in done if c.name in needs and not c.ok]
    ok: bool | None = True
    try:
      if failed:
        raise checks.NotCheckedError(f"see {failed[0]}")
      found = check(opened)
    except checks.NotCheckedError as reason:
      ok, found = None, f"not checked: {reason}"
    except (UserError, RunError) as error:
      ok, found = False, str(error)
    done.append(Check(name, found, ok))
  return done
