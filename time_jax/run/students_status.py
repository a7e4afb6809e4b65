"""`status` of a run of several students: a line for each."""

import collections
from collections.abc import Mapping, Sequence

from time_jax.checkpoint import layout
from time_jax.core.display import aligned_table, number
from time_jax.core.errors import EXIT_RUN_FAILED, UserError
from time_jax.core.storage.paths import Path
from time_jax.run import status
from time_jax.telemetry import history
from time_jax.telemetry.history import METRIC

_HEADER = ("student", "state", "step", "training", "held-out", "skipped")


def status_command(workdir: Path, students: Sequence[str]) -> int:
  """Prints how the students of a run are doing.

  Args:
    workdir: folder of a run of `distill`, which may still be going on.
    students: their names.

  Returns:
    The exit code: EXIT_RUN_FAILED if that is the one of a student.

  Raises:
    UserError: no student has written anything down.
  """
  folders = {name: workdir / layout.STUDENTS / name for name in students}
  runs = {name: status.read(folder) for name, folder in folders.items()}
  if not any(run.rows or run.sessions for run in runs.values()):
    raise UserError(
      f"no run in {workdir}: none of the students {', '.join(students)} has "
      f"written anything into {workdir / layout.STUDENTS}; start the run again."
    )
  farthest = max(runs.values(), key=lambda run: run.step)
  words = collections.Counter(run.word for run in runs.values())
  states = ", ".join(f"{count} {word}" for word, count in words.items())
  print(f"{workdir}: {states}, {farthest.progress}")
  table = [_HEADER, *(_line(name, run) for name, run in runs.items())]
  print("", *aligned_table(table, "<<>").splitlines(), sep="\n  ")
  print()
  unhealthy = [name for name, run in runs.items() if not run.healthy]
  if unhealthy:
    print(f"Next: python -m time_jax status {folders[unhealthy[0]]}")
    return EXIT_RUN_FAILED
  print(status.next_step(runs[students[0]].word, folders[students[0]]))
  return 0


def print_summary(folders: Mapping[str, Path], num_steps: int) -> None:
  """Draws the losses of all students of a finished run, and prints a summary.

  Args:
    folders: folder of each student, by name; the picture is its `loss.png`.
    num_steps: number of steps of the run.
  """
  print(f"Done: {num_steps} steps of {len(folders)} students. Loss:")
  table = [["student", "training text", "held-out text", "curve"]]
  for name, folder in folders.items():
    history.plot_losses(folder)
    curves = (status.read(folder).values(k) for k in ("train/loss", METRIC))
    losses = (f"{c[0]:.4f} -> {c[-1]:.4f}" if c else "-" for c in curves)
    table.append([name, *losses, str(folder / "loss.png")])
  for line in aligned_table(table, "<").splitlines():
    print(f"  {line}")
  first, *_ = folders.values()
  then = "choose" if status.read(first).values(METRIC) else "export"
  print(f"Next: python -m time_jax {then} --workdir={first}")


def _line(name: str, run: status.Run) -> list[str]:
  loss, held_out, skipped = (
    ([None, *run.values(key)])[-1]
    for key in ("train/loss", METRIC, "train/skipped")
  )
  return [
    *(name, run.word, f"{run.step:,}"),
    *(number(loss, ".4f"), number(held_out, ".4f"), number(skipped, ",.0f")),
  ]
