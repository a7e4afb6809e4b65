"""What a run has recorded in its workdir, read without JAX while it goes on.

`metrics.jsonl` has a line for every record of metrics; those of work that was
lost are dropped when the run is started again. `sessions.jsonl` has a line for
every start of the run, and for every end that it lived to write.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from time_jax.core.errors import (
  EXIT_BUG,
  RunError,
  exit_status,
  without_secrets,
)
from time_jax.core.storage import atomic_file, lease
from time_jax.core.storage.paths import Path

METRIC = "eval/loss"
# Earlier versions recorded this alone, which is the loss of a run without a
# hidden-state term; of one with it, they did not record the loss.
FORMER_METRIC, _HIDDEN = "eval/relation_loss", "eval/hidden"
_CURVES = {"train/loss": "training", METRIC: "held-out text"}

Row = dict[str, Any]
End = Callable[..., None]  # records the end of a session: its code, and why


def read_metrics(workdir: Path) -> list[Row]:
  """Returns the numbers in a run's metrics.jsonl; damaged lines are skipped.

  Args:
    workdir: folder of the run.

  Returns:
    A dictionary for each line, with "step" and the metrics recorded then.
  """
  rows = [
    {name: x for name, x in row.items() if isinstance(x, int | float)}
    for row in read_lines(workdir / "metrics.jsonl")[0]
    if isinstance(row.get("step"), int)
  ]
  for row in rows:
    loss = loss_of(row)
    if loss is not None:
      row[METRIC] = loss
  return rows


def loss_of(scores: Mapping[str, Any], prefix: str = "") -> Any:
  """Returns the held-out loss among scores; None where there is none.

  Args:
    scores: values by name, of any version.
    prefix: what stands before the names, such as "xs.".
  """
  if prefix + METRIC not in scores and prefix + _HIDDEN not in scores:
    return scores.get(prefix + FORMER_METRIC)
  return scores.get(prefix + METRIC)


def read_sessions(workdir: Path) -> list[Row]:
  """Returns the starts and ends of a run, in order.

  Args:
    workdir: folder of the run.

  Returns:
    A dictionary for each: "event" ("start" or "end"), "time" (Unix seconds),
    and of a start the hardware, of an end the exit "code" and "why".
  """
  rows = read_lines(workdir / "sessions.jsonl")[0]
  return [
    row
    for row in rows
    if row.get("event") in ("start", "end")
    and isinstance(row.get("time"), int | float)
  ]


def starts(workdir: Path) -> list[float]:
  """Returns when a run was started (Unix seconds), all times.

  Args:
    workdir: folder of the run.
  """
  return [r["time"] for r in read_sessions(workdir) if r["event"] == "start"]


@contextlib.contextmanager
def session(
  workdir: Path, active: bool, **start: Any
) -> Generator[End, None, None]:
  """Records the start and the end of a session in `sessions.jsonl`.

  Args:
    workdir: folder of the run.
    active: whether this process writes.
    **start: "time" (Unix seconds) of the start, and the hardware.

  Yields:
    A function to call with the exit code, and why, at a regular end; an
    exception is recorded as it passes. The first end counts.
  """
  ended = False

  def end(code: int, why: str = "") -> None:
    nonlocal ended
    if not ended:
      _append(workdir, active, "end", time=time.time(), code=code, why=why)
    ended = True

  _append(workdir, active, "start", **start)
  try:
    yield end
  except BaseException as error:
    code, reason = exit_status(error) or (EXIT_BUG, "")
    # The exception that stands for a signal has no text of its own.
    why = f"{type(error).__name__}: {error}" if str(error) else reason
    end(code, without_secrets(why)[:500])
    raise


def _append(workdir: Path, active: bool, event: str, **more: Any) -> None:
  # A full disk must not stop the run for this; and where another run has taken
  # over, nothing is written, as the next save will tell.
  with contextlib.suppress(OSError, RunError):
    if active:
      lease.check()
      with (workdir / "sessions.jsonl").open("a", encoding="utf-8") as file:
        file.write(atomic_file.as_json({"event": event, **more}) + "\n")


def read_lines(path: Path) -> tuple[list[Row], int]:
  """Reads a file that has a JSON object in each line.

  The last line may be torn: it is being written, or the run was killed.

  Args:
    path: the file, which need not exist.

  Returns:
    The objects, and how many lines hold none.
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
  """Returns the steps and values of a metric.

  Args:
    rows: rows of `read_metrics` or `read_lines`.
    name: name of the metric, such as "train/loss".

  Returns:
    (step, value) for every row that has the metric; NaN stands for null, as
    JSON has none.
  """
  values = ((row["step"], row[name]) for row in rows if name in row)
  numbers = ((step, math.nan if x is None else x) for step, x in values)
  return [(step, x) for step, x in numbers if isinstance(x, int | float)]


def tokens_read(rows: Sequence[Row]) -> float | None:
  """Returns the real tokens (no padding) of all steps.

  Steps that were not logged count as the mean of those that were.

  Args:
    rows: rows of `read_metrics`.

  Returns:
    The number of tokens; None if none was logged.
  """
  logged = {
    step: count
    for step, count in curve(rows, "data/tokens")
    if math.isfinite(count)
  }
  if not logged:
    return None
  return max(logged) * sum(logged.values()) / len(logged)


def plot_losses(workdir: Path, path: Path | None = None) -> Path | None:
  """Draws the training and the held-out loss as a PNG.

  Args:
    workdir: folder of the run.
    path: path of the picture; None: WORKDIR/loss.png.

  Returns:
    The path; None if the run has no loss yet.
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
  for label, curve_points in points.items():
    if curve_points:
      marker = "o" if label == _CURVES[METRIC] else None
      axes.plot(*zip(*curve_points, strict=True), label=label, marker=marker)
  axes.set(xlabel="step", ylabel="loss", yscale="log")
  for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
    axis(ScalarFormatter())
  axes.grid(alpha=0.3, which="both")
  axes.legend()
  path = path or workdir / "loss.png"
  figure.savefig(path, dpi=120, format="png")
  return path
