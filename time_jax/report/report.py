"""`report`: the paper's table from result files, and what lies behind it."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence

from time_jax.core.errors import UserError
from time_jax.report import plot, results, table
from time_jax.report.results import Breakdown, Result
from time_jax.report.table import COLUMNS, Row

MISSING = "-"
COMMON = (
  "Mean of common: of the test scores that all models of the language have, "
  "which is what the plot shows; (of N): these are N."
)
HEADER = (
  *("language", "model", *COLUMNS, "average", "mean of common"),
  "% of teacher",
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
  *("common_mean", "common_columns"),
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
  details = _by_class(found, by) if by else []
  out.mkdir(parents=True, exist_ok=True)
  with (out / "report.csv").open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([PLAIN_HEADER, *map(plain, rows)])
  text = "\n".join([*lines, *notes, *details])
  (out / "report.md").write_text(text + "\n", encoding="utf-8")
  drawn = plot.plot(rows, out / "pareto.png")
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

  def of(count: int) -> str:
    return f" (of {count})" if 0 < count < len(COLUMNS) else ""

  speed = row.speed
  return [
    row.lang or MISSING,
    row.label,
    *cells,
    _number(row.average, ".2f"),
    _number(row.mean, ".2f") + of(len(row.common)),
    _number(row.share, ".1f") + of(row.shared),
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
  line += (
    [s.milliseconds, s.joules, s.engine, s.batch_size, s.hardware]
    if s
    else [None] * 5
  )
  return [*line, row.mean, len(row.common) or None]


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
    "scores, where all are there.",
    COMMON,
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
  words = row["words"]
  return _number(100 * row[metric] / words if words else None, ".2f")
