"""What `bench inference` hands out: tables as text and Markdown, two plots."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.common import report
from time_jax.bench.inference.sentences import Rows
from time_jax.report import plot, results, table
from time_jax.report.results import Result

NUMBERS = "inference.json"
_TEXT, _SPEED_UP, _SCORES = "inference.md", "speedup.png", "score_latency.png"
_HEAD = (
  "model, engine",
  "MB",
  "p50 ms",
  "p90",
  "p99",
  "95 % of mean",
  "sentences/s",
  "tokens/s",
  "J/sentence",
  "mJ/token",
  "to first",
)
_NONE = "-"


def as_text(
  size: int, rows: Sequence[Mapping[str, Any]], batches: Sequence[Rows]
) -> str:
  """The table of one batch size.

  Args:
    size: of a batch.
    rows: of the JSON file.
    batches: that were measured.
  """
  lengths = [mask.shape[1] for _, mask in batches]
  real = sum(mask.sum() for _, mask in batches) / sum(
    mask.size for _, mask in batches
  )
  title = (
    f"batch {size}: {len(batches)} batches of {min(lengths)} - {max(lengths)} "
    f"places, {real:.0%} of them tokens"
  )
  notes = "".join(f"{note}\n" for note in _notes(rows))
  return f"{title}\n{report.table(_HEAD, [*map(_cells, rows)])}\n{notes}"


def write(
  folder: pathlib.Path, content: Mapping[str, Any], scores: Sequence[Result]
) -> None:
  """Writes inference.md and the plots; says which there is not, and why.

  Args:
    folder: exists, with inference.json.
    content: of that file.
    scores: of `finetune`, joined by the fingerprints of weights.
  """
  text = _markdown(content)
  (folder / _TEXT).write_text(text, encoding="utf-8")
  if not _plot_speed_up(content["rows"], folder / _SPEED_UP):
    print(f"No {_SPEED_UP}: there is one model.")
  _, speeds = results.read([folder / NUMBERS])
  rows = [row for row in table.rows(scores, speeds) if row.speed]
  if not rows:
    why = "no --scores" if not scores else "none of --scores is of these models"
    print(f"No {_SCORES}: {why}.")
  elif not plot.plot(rows, folder / _SCORES):
    print(f"No {_SCORES}: --scores has no test score that all models share.")


def _cells(row: Mapping[str, Any]) -> list[str]:
  latency, bounds = row["latency_s"], row["ci95_s"]
  energy, size = row["energy"] or {}, row["file_bytes"]
  per_token = energy.get("joules_per_token")
  return [
    f"{row['model']}, {row['engine']}",
    _NONE if size is None else f"{size / 1e6:,.1f}",
    *(f"{latency[p] * 1e3:,.2f}" for p in ("p50", "p90", "p99")),
    " - ".join(f"{b * 1e3:,.2f}" for b in bounds) if bounds else _NONE,
    f"{row['sentences_s']:,.1f}",
    f"{row['tokens_s']:,.0f}",
    _number(energy.get("joules_per_sentence"), ".3g"),
    _number(per_token and 1e3 * per_token, ".3g"),
    _number(row.get("speed_up"), ".2f", "x"),
  ]


def _number(value: float | None, form: str, unit: str = "") -> str:
  return _NONE if value is None else f"{value:{form}}{unit}"


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """What int8 costs, and how energy was measured or why not."""
  notes = [
    f"{row['model']}, {row['engine']}: a vector is {row['error']:.1%} of its "
    "length off, on average"
    for row in rows
    if row["error"] is not None
  ]
  ways: dict[str, list[str]] = {}
  for row in rows:
    found = row["energy"]
    if found and row["engine"] not in ways.setdefault(found["method"], []):
      ways[found["method"]].append(row["engine"])
  notes += [f"energy, {', '.join(who)}: {how}" for how, who in ways.items()]
  notes += [
    f"{row['model']}, {row['engine']}: "
    f"{1e3 * row['energy']['chip_seconds_per_sentence']:.3g} chip-ms a "
    f"sentence, {1e6 * row['energy']['chip_seconds_per_token']:.3g} chip-us a "
    "token"
    for row in rows
    if "chip_seconds_per_sentence" in (row["energy"] or {})
  ]
  return notes


def _markdown(content: Mapping[str, Any]) -> str:
  """All tables, with the machine and what was measured."""
  hardware, software = content["hardware"], content["software"]
  lines = [
    "# Latency of encoders on real sentences",
    "",
    f"{content['date']}: {hardware['n_devices']} x {hardware['kind']}, "
    f"{hardware['host_cores']} cores of the host; "
    + ", ".join(f"{k} {v}" for k, v in software.items() if k != "xla_flags"),
    "",
    "From host arrays to host arrays, in turns. To first: how many times as "
    f"fast as {content['models'][0]['name']} in the same engine, the median "
    "of rounds. 95 %: of the mean of a round, by Student's t over rounds.",
  ]
  for size in dict.fromkeys(row["batch_size"] for row in content["rows"]):
    rows = [row for row in content["rows"] if row["batch_size"] == size]
    lines += ["", f"## {size} {'sentences' if size > 1 else 'sentence'}", ""]
    lines += [f"| {' | '.join(line)} |" for line in (_HEAD, _marks())]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    notes = [f"* {note}" for note in _notes(rows)]
    lines += ["", *notes] if notes else []
  return "\n".join(lines) + "\n"


def _marks() -> list[str]:
  return ["---", *["--:"] * (len(_HEAD) - 1)]


def _plot_speed_up(
  rows: Sequence[Mapping[str, Any]], path: pathlib.Path
) -> bool:
  """How many times as fast as the first model, by batch size.

  Returns:
    Whether there was anything to draw.
  """
  first = rows[0]["model"]
  lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
  for row in rows:
    if "speed_up" in row and row["model"] != first:
      point = row["batch_size"], row["speed_up"]
      lines.setdefault((row["model"], row["engine"]), []).append(point)
  if not lines:
    return False
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure
  from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

  models, engines = (
    [*dict.fromkeys(pair[i] for pair in lines)] for i in range(2)
  )
  figure = Figure(figsize=(7, 4.5), layout="constrained")
  axes = figure.subplots()
  for (model, engine), points in lines.items():
    axes.plot(
      *zip(*points, strict=True),
      color=f"C{models.index(model)}",
      linestyle=("-", "--", ":", "-.")[engines.index(engine) % 4],
      marker="osv^"[engines.index(engine) % 4],
      label=f"{model}, {engine}",
    )
  sizes = sorted({row["batch_size"] for row in rows})
  axes.set(
    xscale="log",
    yscale="log",
    xlabel="sentences in a batch",
    ylabel=f"times as fast as {first} in the same engine",
  )
  axes.set_xticks(sizes, map(str, sizes))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
  for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
    which(StrMethodFormatter("{x:g}"))
  axes.grid(alpha=0.3, which="both")
  figure.legend(loc="outside right upper")
  figure.savefig(path, dpi=120, format="png")
  return True
