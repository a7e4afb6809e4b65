"""What a sweep has found so far: a table and a plot, from its files alone."""

import csv
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from time_jax.core.display import markdown_table
from time_jax.core.errors import EXIT_PREEMPTED, UserError
from time_jax.data import manifest
from time_jax.report import fingerprints, plot, report, results, table
from time_jax.report.results import Result
from time_jax.report.table import Row
from time_jax.sweeps import stages
from time_jax.sweeps.grid import DISTILL, LATENCY, TOKENS, Point, Sweep
from time_jax.telemetry import history

DONE = "done"
_NOT_HERE = "% of teacher"
_TOKENS_NOTE = (
  "Tokens: of the text that training read, each counted once however often it "
  "was read."
)


def state(sweep: Sweep, point: Point) -> str:
  """How a point is doing, in words."""
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
  """Says how far a point is above the limit; empty: it is not, as far as known.

  Args:
    sweep: has the limit.
    point: may have been measured.
  """
  speed = stages.speed_of(point) if sweep.limit_ms is not None else None
  if not speed or speed.milliseconds <= (sweep.limit_ms or 0):
    return ""
  return f"{speed.milliseconds:.2f} ms, limit {sweep.limit_ms:g} ms"


def write(sweep: Sweep, points: Sequence[Point], workdir: pathlib.Path) -> None:
  """Writes sweep.md, sweep.csv and, where there is something, sweep.png.

  Args:
    sweep: the grid.
    points: of it.
    workdir: for the files.

  Raises:
    UserError: a file of results is damaged, or two are for one cell.
  """
  found = {point.name: _rows(point) for point in points}
  states = {point.name: state(sweep, point) for point in points}
  tokens = {point.name: _tokens(point) for point in points}
  flat = [row for rows in found.values() for row in rows]
  drawn = table.with_common([row for row in flat if states[row.label] == DONE])
  # The others are not compared with these yet.
  known = {(row.lang, row.label): row.common for row in drawn}
  flat = [
    dataclasses.replace(row, common=known.get((row.lang, row.label), ()))
    for row in flat
  ]
  shown = [name != _NOT_HERE for name in report.HEADER]

  def cells(texts: Sequence[str], *more: str) -> list[str]:
    kept = [text for text, show in zip(texts, shown, strict=True) if show]
    return [*kept, *more]

  header = cells(report.HEADER, "tokens", "state")
  header[1] = "point"
  body = [
    cells(
      report.texts(row),
      f"{tokens[row.label]:,}" if tokens[row.label] else report.MISSING,
      states[row.label],
    )
    for row in flat
  ]
  lines = [markdown_table([header, *body], "<<>")]
  lines += ["", f"Scores in percent; {report.MISSING}: not measured."]
  lines += ["", f"{report.COMMON} Of points that are done.", "", _TOKENS_NOTE]
  text = "\n".join(lines) + "\n"
  (workdir / "sweep.md").write_text(text, encoding="utf-8")
  by_name = {point.name: point for point in points}
  with (workdir / "sweep.csv").open("w", encoding="utf-8", newline="") as file:
    rows = csv.writer(file)
    rows.writerow([*sweep.axes, *report.PLAIN_HEADER, "tokens", "state"])
    for row in flat:
      values = by_name[row.label].values.values()
      more = tokens[row.label], states[row.label]
      rows.writerow([*values, *report.plain(row), *more])
  _draw(sweep, drawn, by_name, tokens, workdir / "sweep.png")


def _draw(
  sweep: Sweep,
  rows: Sequence[Row],
  points: Mapping[str, Point],
  tokens: Mapping[str, int | None],
  path: pathlib.Path,
) -> None:

  def x(row: Row) -> float | None:
    if sweep.x == LATENCY:
      return row.speed.milliseconds if row.speed else None
    if sweep.x == TOKENS:
      count = tokens[row.label]
      return count and count / 1e6
    return points[row.label].values[sweep.x]

  # A line joins rows that differ in one axis; the legend names the others.
  moving = sweep.x if sweep.x in sweep.axes else [*sweep.axes][-1]
  groups, named = [], []
  for row in rows:
    values = points[row.label].values
    others = [f"{name}={values[name]}" for name in values if name != moving]
    groups.append(", ".join(others))
    name = f"{moving}={values[moving]}"
    named.append(dataclasses.replace(row, labels=(name,)))
  xs = [x(row) for row in rows]
  label = {LATENCY: plot.MS, TOKENS: "million tokens of text"}.get(sweep.x)
  costs = sweep.x in (LATENCY, TOKENS)
  if not plot.draw(
    named, xs, label or sweep.x, path, costs=costs, groups=groups
  ):
    path.unlink(missing_ok=True)


def _rows(point: Point) -> list[Row]:
  """A row a language; one without scores where nothing was scored."""
  places = [
    pathlib.Path(stage.values.workdir).expanduser()
    for stage in point.stages
    if stage.name.startswith("finetune")
  ]
  found, _ = results.read([p for p in places if (p / results.SCORES).exists()])
  check_models(found)
  # Known by the point: its parts may be of other weights, as the shape is that
  # was measured, and two points may share theirs.
  named = [
    dataclasses.replace(one, label=point.name, fingerprint=point.name)
    for one in found
  ]
  speed = stages.speed_of(point)
  rows = table.rows(named) or [Row("", (point.name,), None, {})]
  return [dataclasses.replace(row, speed=speed) for row in rows]


def check_models(found: Sequence[Result]) -> None:
  """Refuses results of a point that stand for two models.

  Args:
    found: of its `finetune` stages.

  Raises:
    UserError: one place held different models as it was fine-tuned.
  """
  first: dict[tuple[str, str], Result] = {}
  for one in fingerprints.unify(found, [])[0]:
    other = first.setdefault((one.model, one.init), one)
    if other.fingerprint != one.fingerprint:
      raise UserError(
        f"{other.place} and {one.place} were made of {one.model}, which held "
        f"another model each time ({other.fingerprint[:12]} and "
        f"{one.fingerprint[:12]}); they cannot stand in one row. Delete the "
        "folder of the point to run all of its stages again."
      )


def _tokens(point: Point) -> int | None:
  """Of the text that `distill` read; None: nothing yet, or no text.

  Text that was prepared and not reached is not counted, nor is text twice.
  """
  for stage in point.stages:
    if stage.name == DISTILL:
      workdir = pathlib.Path(stage.values.workdir).expanduser()
      folder = stage.values.config.data.folder
      place = pathlib.Path(folder).expanduser() if folder else workdir / "data"
      read = history.tokens_read(history.read_metrics(workdir))
      if read and manifest.is_prepared(place):
        prepared = manifest.load_manifest(place).splits["train"].tokens
        return min(round(read), prepared)
  return None
