"""`report`: the paper's table from result files, as Markdown, CSV and plot."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence

from time_jax.core.display import markdown_table, number
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path, delete
from time_jax.report import differences, plot, results, table
from time_jax.report.results import COLUMNS, FROM_TEXT, PAPER, Result
from time_jax.report.table import Cell, Row

_DIFFERENCES = "differences.csv"
MISSING = "-"
_ALIGN = "<<>"
COMMON = (
  "Mean of common: of the test scores that all models of the language have, "
  "which is what the plot shows; (of N): these are N."
)
FROM_RAW_TEXT = (
  "F1 on raw text, in which a model, or one before it, finds sentences, tokens "
  "and words itself; a word that is not found counts as wrong. These scores "
  "are in no mean, and have no intervals."
)
HEADER = (
  *("language", "model", *COLUMNS, "average", "mean of common"),
  "% of teacher",
  *("parameters", "ms", "J/sentence"),
)


def _plain_header(columns: Iterable[str]) -> list[str]:
  whats = ("", " std", " seeds", " split")
  return [f"{name}{what}" for name in columns for what in whats]


PLAIN_HEADER = (
  *("lang", "label"),
  *_plain_header(COLUMNS),
  *("average", "teacher_percent", "teacher_columns", "parameters"),
  *("ms", "joules_per_sentence", "engine", "batch_size", "hardware"),
  *("common_mean", "common_columns"),
)
BY = {"feats": ("F1",), "upos": ("UPOS", "UFeats", "Lemmas", "UAS", "LAS")}


def report(
  paths: Sequence[Path],
  *,
  teacher: str,
  by: str,
  out: Path,
  lower: str = "",
) -> int:
  """Writes tables as Markdown and CSV, and a plot, and prints the tables.

  Args:
    paths: see `results.read`.
    teacher: label of the model that others are compared with; "" is none.
    by: a key of `BY`, for a table of every feature or part of speech; "" is
      none.
    out: folder for the files, made when missing.
    lower: which models are to beat which; see `differences.parse_lower`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a path without results, or results that contradict each other.
  """
  beaten = differences.parse_lower(lower)
  scores, speeds = results.read(paths)
  if not scores:
    raise UserError(
      "no scores in what is given; expected workdirs of `finetune`, besides "
      "those of `bench inference`."
    )
  rows = table.rows(scores, speeds, teacher)
  lines = []
  if given := [row for row in rows if _is_more_than_raw(row)]:
    lines = [markdown_table([HEADER, *map(texts, given)], _ALIGN), ""]
    lines += [f"* {note}" for note in _notes(rows, scores, teacher)]
  compared, numbers = differences.tables(rows, teacher, beaten)
  if numbers:
    lines.append(f"* {differences.ABOUT}")
  from_text = _columns_from_text(rows)
  lines += _table_from_text(rows, from_text) if from_text else []
  lines += compared
  lines += _tables_by_class(scores, by) if by else []
  text = "\n".join(lines)
  out.mkdir(parents=True, exist_ok=True)
  header = [*PLAIN_HEADER, *_plain_header(from_text)]
  cells = ([*plain(row), *_plain_cells(row, from_text)] for row in rows)
  write_csv(out / "report.csv", [header, *cells])
  written = ["report.md", "report.csv"]
  if numbers:
    write_csv(out / _DIFFERENCES, [differences.HEADER, *numbers])
    written.append(_DIFFERENCES)
  elif (out / _DIFFERENCES).exists():
    delete(out / _DIFFERENCES)
  atomic_file.write_text(out / "report.md", text + "\n")
  if plot.plot(rows, out / "pareto.png"):
    written.append("pareto.png")
  print(text)
  print(f"\nWritten: {out}/{', '.join(written)}")
  return 0


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
  """Writes rows of cells, the header among them, as a CSV file."""
  text = io.StringIO(newline="")
  csv.writer(text).writerows(rows)
  atomic_file.write_text(path, text.getvalue())


def texts(row: Row) -> list[str]:
  """Returns the cells of a row as people read them, below `HEADER`."""

  def of(count: int) -> str:
    return f" (of {count})" if 0 < count < len(COLUMNS) else ""

  speed = row.speed
  return [
    row.lang or MISSING,
    row.label,
    *(_score(row.cells.get(name)) for name in COLUMNS),
    number(row.average, ".2f"),
    number(row.mean, ".2f") + of(len(row.common)),
    number(row.share, ".1f") + of(row.shared),
    number(row.parameters and row.parameters / 1e6, ".2f", " M"),
    number(speed.milliseconds if speed else None, ".2f"),
    number(speed.joules if speed else None, ".3g"),
  ]


def _score(cell: Cell | None) -> str:
  if cell is None:
    return MISSING
  if cell.mean is None or cell.std is None:
    return "undefined"
  spread = f" ± {cell.std:.2f}" if cell.seeds > 1 else ""
  return f"{cell.mean:.2f}{spread}{' (dev)' * (cell.split == 'dev')}"


def plain(row: Row) -> list[object]:
  """Returns the cells of a row unrounded, below `PLAIN_HEADER`, for a CSV."""
  line = [row.lang, row.label, *_plain_cells(row, COLUMNS)]
  line += [row.average, row.share, row.shared or None, row.parameters]
  measured = "milliseconds", "joules", "engine", "batch_size", "hardware"
  line += [getattr(row.speed, name, None) for name in measured]
  return [*line, row.mean, len(row.common) or None]


def _plain_cells(row: Row, columns: Iterable[str]) -> list[object]:
  """Returns the scores in some columns, below `_plain_header`."""
  line: list[object] = []
  for name in columns:
    cell = row.cells.get(name)
    line += dataclasses.astuple(cell) if cell else [None] * 4
  return line


def _columns_from_text(rows: Sequence[Row]) -> list[str]:
  """Returns the columns of raw text that any row has, in order."""
  names = dict.fromkeys(name for own in FROM_TEXT.values() for name in own)
  return [name for name in names if any(name in row.cells for row in rows)]


def _is_more_than_raw(row: Row) -> bool:
  """Returns whether a row has scores of given words, or speeds."""
  return bool(row.speed or row.cells.keys() & COLUMNS.keys())


def _table_from_text(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
  """Returns the table of scores on raw text.

  Args:
    rows: all rows of a report; those without such a score are left out.
    columns: see `_columns_from_text`.
  """
  lines = [["language", "model", *columns]]
  for row in rows:
    if row.cells.keys() & set(columns):
      cells = (_score(row.cells.get(name)) for name in columns)
      lines.append([row.lang or MISSING, row.label, *cells])
  return [
    "",
    "## Raw text",
    "",
    markdown_table(lines, _ALIGN),
    "",
    FROM_RAW_TEXT,
  ]


def _notes(
  rows: Sequence[Row], scores: Sequence[Result], teacher: str
) -> list[str]:
  """Returns what the table means, as far as it is not plain."""
  cells = [cell for row in rows for cell in row.cells.values()]
  notes = [
    f"Scores in percent; {MISSING}: not measured. The average is the paper's: "
    f"of {', '.join(PAPER)} on test, where all are there.",
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
  machines = sorted({result.hardware for result in scores} - {""})
  if machines:
    notes.append(f"Fine-tuned on {', '.join(machines)}.")
  return notes


def _tables_by_class(scores: Sequence[Result], by: str) -> list[str]:
  """Returns a table of all features or parts of speech by language and metric.

  Args:
    scores: results; those of another task than `ud` are left out.
    by: a key of `BY`.
  """
  lines: list[str] = []
  tagged = [result for result in scores if result.task == "ud"]
  for lang in sorted({result.lang for result in tagged}):
    own = [result for result in tagged if result.lang == lang]
    breakdowns = [result.breakdown(by) for result in own]
    sizes = {
      name: counts["gold" if by == "feats" else "words"] // len(result.seeds)
      for result, breakdown in zip(own, breakdowns, strict=True)
      for name, counts in breakdown.items()
    }
    for metric in BY[by]:
      rows = [[by, "words", *(f"{r.label} ({r.split})" for r in own)]]
      for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        shares = (_share(counts.get(name), metric) for counts in breakdowns)
        rows.append([name, str(sizes[name]), *shares])
      lines += ["", f"## {lang or MISSING}: {metric} by {by}", ""]
      lines.append(markdown_table(rows, _ALIGN))
  return lines


def _share(counts: Mapping[str, int] | None, metric: str) -> str:
  """Returns F1 of a feature, or the share of right words of a class."""
  if counts is None or (metric != "F1" and metric not in counts):
    return MISSING
  if metric == "F1":
    right, whole = 2 * counts["right"], counts["gold"] + counts["predicted"]
  else:
    right, whole = counts[metric], counts["words"]
  return number(100 * right / whole if whole else None, ".2f")
