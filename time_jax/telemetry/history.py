"""What a run has left in its workdir, read without JAX and while it goes on.

`metrics.jsonl` has a row a record; rows of work that was lost are gone from it.
`sessions.jsonl` has a line for every start of the run, and for every end that
the run lived to write: nothing is ever dropped from it.
"""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from time_jax.core.errors import (
  EXIT_BUG,
  RunError,
  exit_status,
  without_secrets,
)
from time_jax.core.storage import atomic_file, lease

METRIC = "eval/relation_loss"
_CURVES = {"train/loss": "training", METRIC: "held-out text"}

Row = dict[str, Any]


def read_metrics(workdir: pathlib.Path) -> list[Row]:
  """The numbers of a run's metrics.jsonl; damaged lines are left out."""
  rows = read_lines(workdir / "metrics.jsonl")[0]
  return [
    {name: x for name, x in row.items() if isinstance(x, int | float)}
    for row in rows
    if isinstance(row.get("step"), int)
  ]


def read_sessions(workdir: pathlib.Path) -> list[Row]:
  """Starts and ends of a run, in order: event, time (Unix seconds), step.

  A start has processes, devices and kind of device; an end has the exit code
  and why.
  """
  rows = read_lines(workdir / "sessions.jsonl")[0]
  return [
    row
    for row in rows
    if row.get("event") in ("start", "end")
    and isinstance(row.get("time"), int | float)
  ]


def starts(workdir: pathlib.Path) -> list[float]:
  """When a run was started (Unix seconds), every time."""
  return [r["time"] for r in read_sessions(workdir) if r["event"] == "start"]


@contextlib.contextmanager
def session(
  workdir: pathlib.Path, active: bool, **start: Any
) -> Generator[Callable[[int], None], None, None]:
  """Notes start and end of a session; gives what notes its exit code.

  Args:
    workdir: of the run.
    active: whether this process writes.
    **start: time and where it runs.
  """

  def end(code: int, why: str = "") -> None:
    _append(workdir, active, "end", time=time.time(), code=code, why=why)

  _append(workdir, active, "start", **start)
  try:
    yield end
  except BaseException as error:
    code, reason = exit_status(error) or (EXIT_BUG, "")
    # A signal has no words of its own.
    why = f"{type(error).__name__}: {error}" if str(error) else reason
    end(code, without_secrets(why)[:500])
    raise


def _append(
  workdir: pathlib.Path, active: bool, event: str, **more: Any
) -> None:
  # A full disk must not stop the run for this; nor is it written where another
  # run has taken over, which the next save tells.
  with contextlib.suppress(OSError, RunError):
    if active:
      lease.check()
      with (workdir / "sessions.jsonl").open("a", encoding="utf-8") as file:
        file.write(atomic_file.as_json({"event": event, **more}) + "\n")


def read_lines(path: pathlib.Path) -> tuple[list[Row], int]:
  """The JSON objects of a file, one a line, and how many lines are none.

  The last line may be torn: it is being written, or the run was killed.
  """
  try:
    text = path.read_text(encoding="utf-8", errors="replace")
  except OSError:
    return [], 0
  rows, bad = [], 0
  for line in text.splitlines():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      bad += 1
  return rows, bad


def curve(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
  """The steps and values of rows with this name; NaN stands for null."""
  values = ((row["step"], row[name]) for row in rows if name in row)
  # The file has null for NaN, see `folders.as_json`.
  numbers = ((step, math.nan if x is None else x) for step, x in values)
  return [(step, x) for step, x in numbers if isinstance(x, int | float)]


def tokens_read(rows: Sequence[Row]) -> float | None:
  """Real tokens of all steps; None: none was logged.

  Where not every step was logged, the others are taken for their mean.
  """
  logged = {
    step: count
    for step, count in curve(rows, "data/tokens")
    if math.isfinite(count)
  }
  if not logged:
    return None
  return max(logged) * sum(logged.values()) / len(logged)


def plot_losses(
  workdir: pathlib.Path, path: pathlib.Path | None = None
) -> pathlib.Path | None:
  """Draws the training and held-out relation loss; None if there is nothing.

  Args:
    workdir: of the run.
    path: of the PNG; WORKDIR/loss.png.
  """
  rows = read_metrics(workdir)
  points = {label: curve(rows, name) for name, label in _CURVES.items()}
  if not any(points.values()):
    return None
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure
  from matplotlib.ticker import ScalarFormatter

  figure = Figure(figsize=(7, 4), layout="constrained")
  axes = figure.subplots()
  for label, found in points.items():
    if found:
      marker = "o" if label == _CURVES[METRIC] else None
      axes.plot(*zip(*found, strict=True), label=label, marker=marker)
  axes.set(xlabel="step", ylabel="relation loss", yscale="log")
  for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
    axis(ScalarFormatter())
  axes.grid(alpha=0.3, which="both")
  axes.legend()
  path = path or workdir / "loss.png"
  figure.savefig(path, dpi=120, format="png")
  return path
