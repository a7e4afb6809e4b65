"""What a sweep has found so far: a table and a plot, from its files alone."""

import dataclasses
import itertools
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from time_jax.core.display import markdown_table
from time_jax.core.errors import EXIT_PREEMPTED, UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import delete
from time_jax.data import manifest
from time_jax.report import fingerprints, plot, report, results, table
from time_jax.report.results import Result
from time_jax.report.table import Row
from time_jax.run.corpus import data_folder
from time_jax.sweeps import kept, stages
from time_jax.sweeps.grid import DISTILL, LATENCY, START, TOKENS, Sweep
from time_jax.sweeps.points import Point
from time_jax.telemetry import history

DONE = "done"
_LEFT_OUT = "% of teacher"
_X_LABELS = {LATENCY: plot.MS, TOKENS: "million tokens of text seen"}
_TOKENS_NOTE = (
  "Tokens: of the text that training read, each counted once however often it "
  "was read."
)


def state(sweep: Sweep, point: Point) -> str:
  """Returns how a point is doing, such as "2 of 4 stages"."""
  record = stages.Record(point)
  if failure := record.failure():
    stage, code = failure
    if code == EXIT_PREEMPTED:
      return f"stopped: {stage.name}"
    return f"failed: {stage.name}, exit code {code}"
  if over := over_limit(sweep, point):
    return f"skipped: {over}"
  count = len(point.stages)
  done = sum(map(record.finished, range(count)))
  return DONE if done == count else f"{done} of {count} stages"


def over_limit(sweep: Sweep, point: Point) -> str:
  """Returns how far a point is above the limit; "" if it is not, or not known.

  Args:
    sweep: the grid, with its limit.
    point: one of its points, measured or not.
  """
  speed = stages.speed_of(point) if sweep.limit_ms is not None else None
  if not speed or speed.milliseconds <= (sweep.limit_ms or 0):
    return ""
  return f"{speed.milliseconds:.2f} ms, limit {sweep.limit_ms:g} ms"


def write(sweep: Sweep, points: Sequence[Point], workdir: pathlib.Path) -> None:
  """Writes sweep.md, sweep.csv and, where there is something, sweep.png.

  Args:
    sweep: the grid.
    points: its points.
    workdir: folder for the files.

  Raises:
    UserError: a file of results is damaged, or two are for one cell.
  """
  entries = [_Entry(sweep, point) for point in points]
  done = [row for e in entries if e.state == DONE for row in e.rows]
  compared = {(row.lang, row.label): row for row in table.with_common(done)}
  pairs = [  # Unfinished points are not compared with the others yet.
    (entry, compared.get((row.lang, row.label), row))
    for entry in entries
    for row in entry.rows
  ]
  shown = [i for i, name in enumerate(report.HEADER) if name != _LEFT_OUT]
  header = [report.HEADER[i] for i in shown] + ["tokens", "state"]
  header[1] = "point"
  body = []
  for entry, row in pairs:
    read = report.MISSING if entry.tokens is None else f"{entry.tokens:,}"
    cells = report.texts(row)
    body.append([*(cells[i] for i in shown), read, entry.state])
  text = f"""{markdown_table([header, *body], "<<>")}

Scores in percent; {report.MISSING}: not measured.

{report.COMMON} Of points that are done.

{_TOKENS_NOTE}
"""
  atomic_file.write_text(workdir / "sweep.md", text)
  lines: list[list[object]]
  lines = [[*sweep.axes, *report.PLAIN_HEADER, "tokens", "state"]]
  for entry, row in pairs:
    values = entry.point.values.values()
    lines.append([*values, *report.plain(row), entry.tokens, entry.state])
  report.write_csv(workdir / "sweep.csv", lines)
  drawn = [(e, row) for e, row in pairs if e.state == DONE]
  _draw(sweep, drawn, workdir / "sweep.png")


class _Entry:
  """A point with its state, the tokens that it read, and a row a language."""

  def __init__(self, sweep: Sweep, point: Point) -> None:
    self.point, self.state = point, state(sweep, point)
    self.rows, self.tokens = _rows(point), tokens(point)

  def x(self, axis: str, row: Row) -> float | None:
    """Returns where a row is drawn; None if that is not known."""
    if axis == LATENCY:
      return row.speed.milliseconds if row.speed else None
    if axis == TOKENS:
      return self.tokens and self.tokens / 1e6
    return self.point.values[axis]


def _draw(
  sweep: Sweep, rows: Sequence[tuple[_Entry, Row]], path: pathlib.Path
) -> None:
  # A line joins rows that differ in one axis; the legend names the others.
  moving = sweep.x if sweep.x in sweep.axes else [*sweep.axes][-1]
  xs = [entry.x(sweep.x, row) for entry, row in rows]
  named, groups = [], []
  lines: dict[str, set[tuple[Any, float]]] = {}
  for (entry, row), x in zip(rows, xs, strict=True):
    texts = {name: f"{name}={v}" for name, v in entry.point.values.items()}
    label = texts.pop(moving)
    shown = {k: cell for k, cell in row.cells.items() if sweep.y in ("", k)}
    named.append(dataclasses.replace(row, labels=(label,), cells=shown))
    groups.append(", ".join(texts.values()))
    if x is not None:
      lines.setdefault(groups[-1], set()).add((entry.point.values[moving], x))
  if sweep.x != LATENCY and all(map(_rises, lines.values())):
    # A place on the axis tells the setting: names would say it once more.
    named = [dataclasses.replace(row, labels=()) for row in named]
  drawn = plot.figure(
    named,
    xs,
    _X_LABELS.get(sweep.x, sweep.x),
    costs=sweep.x == LATENCY,
    logarithmic=sweep.x in _X_LABELS,
    groups=groups,
  )
  if not plot.save(drawn, path):
    delete(path)


def _rises(line: Collection[tuple[Any, float]]) -> bool:
  """Returns whether x rises with a setting, in a line's pairs of the two."""
  if not all(isinstance(value, int | float) for value, _ in line):
    return False
  pairs = itertools.pairwise(sorted(line))
  return all(a < b and x < y for (a, x), (b, y) in pairs)


def _rows(point: Point) -> list[Row]:
  """Returns a row a language; one without scores where nothing was scored."""
  workdirs = [
    stage.values.workdir
    for stage in point.stages
    if stage.name.startswith("finetune")
    and (stage.values.workdir / results.SCORES_FILE).exists()
  ]
  scores, _ = results.read(workdirs)
  check_models(scores)
  # Known by the point: its parts may be of other weights, as the shape is that
  # was measured, and two points may share theirs.
  named = [
    dataclasses.replace(score, label=point.name, fingerprint=point.name)
    for score in scores
  ]
  rows = table.rows(named) or [Row("", (point.name,), None, {})]
  speed = stages.speed_of(point)
  # `write` compares points with each other, and a point not with itself.
  return [dataclasses.replace(row, speed=speed, common=()) for row in rows]


def check_models(scores: Sequence[Result]) -> None:
  """Refuses results of a point that stand for two models.

  Args:
    scores: results of its `finetune` stages.

  Raises:
    UserError: one place held different models as it was fine-tuned.
  """
  first: dict[tuple[str, str], Result] = {}
  for score in fingerprints.unify(scores, [])[0]:
    other = first.setdefault((score.model, score.init), score)
    if other.fingerprint != score.fingerprint:
      raise UserError(
        f"{other.place} and {score.place} were made of {score.model}, which "
        f"held another model each time ({other.fingerprint[:12]} and "
        f"{score.fingerprint[:12]}); they cannot stand in one row. Delete the "
        "folder of the point to run all of its stages again."
      )


def tokens(point: Point) -> int | None:
  """Returns the tokens of text that `distill` read; None: it is not known.

  Text that was prepared and not reached is not counted, nor is text twice. A
  point that is a student's start has learned from none.

  Args:
    point: a point, begun or not.
  """
  if (restored := kept.tokens_of(point)) is not None:
    return restored
  for stage in point.stages:
    if stage.name == DISTILL:
      workdir = stage.values.workdir
      place = data_folder(stage.values.config, workdir)
      read = history.tokens_read(history.read_metrics(workdir))
      if read and manifest.is_prepared(place):
        prepared = manifest.load_manifest(place).splits["train"].tokens
        return min(round(read), prepared)
  names = {stage.name for stage in point.stages}
  return 0 if START in names and DISTILL not in names else None
