"""The output of `bench inference`: tables as text and Markdown, and plots."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.inference import speedup_plot
from time_jax.bench.inference.sentences import SentenceBatch
from time_jax.core.display import (
  aligned_table,
  markdown_table,
  number,
  with_header,
)
from time_jax.report import plot, results, table
from time_jax.report.results import Result

NUMBERS = "inference.json"
_TEXT, _SPEED_UP, _SCORES = "inference.md", "speedup.png", "score_latency.png"


def as_text(
  rows: Sequence[Mapping[str, Any]], batches: Sequence[SentenceBatch]
) -> str:
  """Returns the table of one batch size.

  Args:
    rows: results as in the JSON file.
    batches: what was encoded.
  """
  lengths = [batch.mask.shape[1] for batch in batches]
  real = sum(batch.mask.sum() for batch in batches)
  share = real / sum(batch.mask.size for batch in batches)
  title = (
    f"batch {len(batches[0].texts)}: {len(batches)} batches of "
    f"{min(lengths)} - {max(lengths)} places, {share:.0%} of them tokens"
  )
  cells = aligned_table(with_header(list(map(_cells, rows))), "<>")
  return "\n".join([title, cells, *_notes(rows), ""])


def write(
  folder: pathlib.Path, content: Mapping[str, Any], scores: Sequence[Result]
) -> None:
  """Writes inference.md and the plots; prints which are missing, and why.

  Args:
    folder: folder with inference.json.
    content: content of that file.
    scores: scores of `finetune`, joined by the fingerprints of weights.
  """
  (folder / _TEXT).write_text(_markdown(content), encoding="utf-8")
  if not speedup_plot.draw(content["rows"], folder / _SPEED_UP):
    print(f"No {_SPEED_UP}: there is one model.")
  _, speeds = results.read([folder / NUMBERS])
  rows = [row for row in table.rows(scores, speeds) if row.speed]
  if not rows:
    why = "no --scores" if not scores else "none of --scores is of these models"
    print(f"No {_SCORES}: {why}.")
  elif not plot.plot(rows, folder / _SCORES):
    print(f"No {_SCORES}: --scores has no test score that all models share.")


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
  latency, bounds = row["latency_s"], row["ci95_s"]
  energy, size = row["energy"] or {}, row["file_bytes"]
  per_token = energy.get("joules_per_token")
  p50, p90, p99 = (latency[name] * 1e3 for name in ("p50", "p90", "p99"))
  mean = " - ".join(f"{b * 1e3:,.2f}" for b in bounds) if bounds else "-"
  return {
    "model, engine": f"{row['model']}, {row['engine']}",
    "MB": number(size and size / 1e6, ",.1f"),
    "p50 ms": f"{p50:,.2f}",
    "p90": f"{p90:,.2f}",
    "p99": f"{p99:,.2f}",
    "95 % of mean": mean,
    "sentences/s": f"{row['sentences_s']:,.1f}",
    "tokens/s": f"{row['tokens_s']:,.0f}",
    "J/sentence": number(energy.get("joules_per_sentence"), ".3g"),
    "mJ/token": number(per_token and 1e3 * per_token, ".3g"),
    "to first": number(row.get("speed_up"), ".2f", "x"),
  }


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns what int8 costs, and how energy was measured or why not."""
  notes = [
    f"{row['model']}, {row['engine']}: a vector is {row['error']:.1%} of its "
    "length off, on average"
    for row in rows
    if row["error"] is not None
  ]
  measured = [row for row in rows if row["energy"]]
  engines: dict[str, dict[str, None]] = {}  # An ordered set by method.
  for row in measured:
    engines.setdefault(row["energy"]["method"], {})[row["engine"]] = None
  for method, names in engines.items():
    notes.append(f"energy, {', '.join(names)}: {method}")
  for row in measured:
    energy = row["energy"]
    if "chip_seconds_per_sentence" in energy:
      notes.append(
        f"{row['model']}, {row['engine']}: "
        f"{1e3 * energy['chip_seconds_per_sentence']:.3g} chip-ms a sentence, "
        f"{1e6 * energy['chip_seconds_per_token']:.3g} chip-us a token"
      )
  return notes


def _markdown(content: Mapping[str, Any]) -> str:
  """Returns all tables, with the machine and what was measured."""
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
    lines.append(markdown_table(with_header(list(map(_cells, rows)))))
    notes = [f"* {note}" for note in _notes(rows)]
    lines += ["", *notes] if notes else []
  return "\n".join(lines) + "\n"
