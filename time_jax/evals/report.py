"""`report`: the paper's table from result files, and what lies behind it."""

import csv
import dataclasses
import pathlib
import statistics
from collections.abc import Sequence

from time_jax.errors import UserError
from time_jax.evals import results, table
from time_jax.evals.results import Breakdown, Result
from time_jax.evals.table import COLUMNS, Row

MISSING = "-"
MS = "ms, median of a batch"
HEADER = (
  *("language", "model", *COLUMNS, "average", "% of teacher"),
  *("parameters", "ms", "J/sentence"),
)
PLAIN_HEADER = (
  *("lang", "label"),
  *(
    f"{name}{what}"
    for name in COLUMNS
    for what in ("", " std", " seeds", " split")
  ),
  *("average", "teacher_percent", "teacher_columns", "parameters"),
  *("ms", "joules_per_sentence", "engine", "batch_size", "hardware"),
)
BY = {"feats": ("F1",), "upos": ("UPOS", "UFeats", "Lemmas", "LAS")}


def report(
  paths: Sequence[pathlib.Path], *, teacher: str, by: str, out: pathlib.Path
) -> int:
  """Writes report.md, report.csv and pareto.png, and prints the table.

  Args:
    paths: see `results.read`.
    teacher: label of the model that others are compared with; empty: none.
    by: a key of `BY`, for a table of every feature or part of speech; empty:
      none.
    out: the folder; made if need be.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a path without results, or results that contradict each other.
  """
  found, speeds = results.read(paths)
  if not found:
    raise UserError(
      "no scores in what is given; expected workdirs of `finetune`, besides "
      "those of `bench inference`."
    )
  rows = table.rows(found, speeds, teacher)
  lines = markdown([HEADER, *map(texts, rows)])
  notes = ["", *_notes(rows, found, teacher)]
  out.mkdir(parents=True, exist_ok=True)
  with (out / "report.csv").open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([PLAIN_HEADER, *map(plain, rows)])
  details = _by_class(found, by) if by else []
  text = "\n".join([*lines, *notes, *details])
  (out / "report.md").write_text(text + "\n", encoding="utf-8")
  drawn = plot(rows, out / "pareto.png")
  print(text)
  print(f"\nWritten: {out}/report.md, report.csv{', pareto.png' * drawn}")
  return 0


def texts(row: Row) -> list[str]:
  """The cells of a row, below `HEADER`."""
  cells = []
  for name in COLUMNS:
    cell = row.cells.get(name)
    if cell is None:
      cells.append(MISSING)
      continue
    if cell.mean is None or cell.std is None:
      cells.append("undefined")
      continue
    spread = f" ± {cell.std:.2f}" if cell.seeds > 1 else ""
    dev = " (dev)" if cell.split == "dev" else ""
    cells.append(f"{cell.mean:.2f}{spread}{dev}")
  of = f" (of {row.shared})" if 0 < row.shared < len(COLUMNS) else ""
  speed = row.speed
  return [
    row.lang or MISSING,
    row.label,
    *cells,
    _number(row.average, ".2f"),
    _number(row.share, ".1f") + of,
    MISSING if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
    _number(speed.milliseconds if speed else None, ".2f"),
    _number(speed.joules if speed else None, ".3g"),
  ]


def _number(value: float | None, form: str) -> str:
  return MISSING if value is None else format(value, form)


def plain(row: Row) -> list[object]:
  """The same for programs: whole numbers, and nothing where nothing is."""
  line: list[object] = [row.lang, row.label]
  for name in COLUMNS:
    cell = row.cells.get(name)
    line += dataclasses.astuple(cell) if cell else [None] * 4
  line += [row.average, row.share, row.shared or None, row.parameters]
  s = row.speed
  return line + (
    [s.milliseconds, s.joules, s.engine, s.batch_size, s.hardware]
    if s
    else [None] * 5
  )


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
  """A table in Markdown, of a header and rows."""
  header, *rest = (f"| {' | '.join(line)} |" for line in lines)
  marks = ["---" if i < 2 else "--:" for i in range(len(lines[0]))]
  return [header, f"| {' | '.join(marks)} |", *rest]


def _notes(
  rows: Sequence[Row], found: Sequence[Result], teacher: str
) -> list[str]:
  """What the table means, as far as it is not plain."""
  cells = [cell for row in rows for cell in row.cells.values()]
  notes = [
    f"Scores in percent; {MISSING}: not measured. The average is of test "
    "scores, where all are there."
  ]
  if any(cell.mean is None for cell in cells):
    notes.append("undefined: there is no name to find in the file.")
  if any(cell.seeds > 1 for cell in cells):
    notes.append("±: standard deviation over the seeds.")
  if any(cell.split == "dev" for cell in cells):
    notes.append("(dev): scored on dev only, and not in any mean.")
  if teacher:
    notes.append(
      f"% of teacher: the mean as a share of that of {teacher!r} over the test "
      "scores that both have; (of N): these are N only."
    )
  else:
    notes.append("% of teacher: which label is the teacher's, --teacher says.")
  kinds = {(r.speed.batch_size, r.speed.hardware) for r in rows if r.speed}
  notes += [
    f"ms: median of a batch of {size} in JAX on {hardware}."
    for size, hardware in sorted(kinds)
  ]
  machines = sorted({result.hardware for result in found})
  notes.append(f"Fine-tuned on {', '.join(machines)}.")
  return [f"* {note}" for note in notes]


def _by_class(found: Sequence[Result], by: str) -> list[str]:
  """Tables of every feature or part of speech, a language and metric each."""
  lines: list[str] = []
  tagged = [result for result in found if result.task == "ud"]
  for lang in sorted({result.lang for result in tagged}):
    of_lang = [result for result in tagged if result.lang == lang]
    counts = [result.breakdown(by) for result in of_lang]
    sizes = {
      name: row["gold" if by == "feats" else "words"] // len(result.seeds)
      for result, table_ in zip(of_lang, counts, strict=True)
      for name, row in table_.items()
    }
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    for metric in BY[by]:
      header = [by, "words", *(f"{r.label} ({r.split})" for r in of_lang)]
      body = [
        [name, str(sizes[name]), *(_share(c, name, metric) for c in counts)]
        for name in names
      ]
      lines += ["", f"## {lang or MISSING}: {metric} by {by}", ""]
      lines += markdown([header, *body])
  return lines


def _share(counts: Breakdown, name: str, metric: str) -> str:
  """F1 of a feature; or how many words of a part of speech are right."""
  row = counts.get(name)
  if row is None:
    return MISSING
  if metric == "F1":
    whole = row["gold"] + row["predicted"]
    return _number(200 * row["right"] / whole if whole else None, ".2f")
  return _number(100 * row[metric] / row["words"], ".2f")


def plot(rows: Sequence[Row], path: pathlib.Path) -> bool:
  """Draws mean score against latency, or against size where none is known.

  Args:
    rows: models and languages.
    path: of the PNG.

  Returns:
    Whether there was anything to draw; see `draw`.
  """
  if any(row.speed for row in rows):
    xs = [row.speed.milliseconds if row.speed else None for row in rows]
    return draw(rows, xs, MS, path)
  sizes = [row.parameters and row.parameters / 1e6 for row in rows]
  return draw(rows, sizes, "million parameters", path)


def draw(
  rows: Sequence[Row],
  xs: Sequence[float | None],
  xlabel: str,
  path: pathlib.Path,
  *,
  costs: bool = True,
) -> bool:
  """Draws the mean score of every row against something.

  The mean is over the test scores that all models of a language have.

  Args:
    rows: with scores.
    xs: of each; None: not known, it is left out.
    xlabel: what they are.
    path: of the PNG.
    costs: whether less of it is better: then a line joins what no other beats,
      else all.

  Returns:
    Whether there was anything to draw.
  """
  points: dict[str, list[tuple[float, float, str]]] = {}
  for row, x in zip(rows, xs, strict=True):
    names = _common(rows, row.lang)
    if x is not None and names:
      y = statistics.fmean(row.tested[name] for name in names)
      points.setdefault(row.lang, []).append((x, y, row.label))
  if not points:
    return False
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure
  from matplotlib.ticker import LogLocator, ScalarFormatter

  figure = Figure(figsize=(7, 4.5), layout="constrained")
  axes = figure.subplots()
  for lang, found in points.items():
    names = ", ".join(_common(rows, lang))
    joined = front(found) if costs else sorted((x, y) for x, y, _ in found)
    style = "steps-post" if costs else "default"
    (line,) = axes.plot(
      *zip(*joined, strict=True), "--", alpha=0.5, drawstyle=style
    )
    axes.scatter(
      *zip(*((x, y) for x, y, _ in found), strict=True),
      color=line.get_color(),
      label=f"{lang or MISSING}: {names}",
    )
    for x, y, label in found:
      axes.annotate(label, (x, y), (4, 4), textcoords="offset points")
  axes.set(xlabel=xlabel, ylabel="mean score (%)")
  axes.margins(x=0.1)  # room for the last name
  if costs:
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
  for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
    axis(ScalarFormatter())
  axes.grid(alpha=0.3, which="both")
  axes.legend()
  figure.savefig(path, dpi=120, format="png")
  return True


def _common(rows: Sequence[Row], lang: str) -> list[str]:
  own = [row.tested for row in rows if row.lang == lang]
  return [name for name in COLUMNS if all(name in tested for tested in own)]


def front(
  points: Sequence[tuple[float, float, str]],
) -> list[tuple[float, float]]:
  """The points (x, y) that no other beats in both; x rises, y too."""
  best: list[tuple[float, float]] = []
  for x, y, _ in sorted(points, key=lambda point: (point[0], -point[1])):
    if not best or y > best[-1][1]:
      best.append((x, y))
  return best
