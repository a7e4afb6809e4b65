"""The output of `bench pipeline`: tables as text, a file of CSV and a plot."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.pipeline import frontier_plot, int8_cost
from time_jax.bench.pipeline.gold import SHOWN, Gold
from time_jax.bench.pipeline.rows import Sample
from time_jax.core.display import aligned_table, number, with_header
from time_jax.core.storage import atomic_file

NUMBERS = "pipeline.json"
_FLAT, _PLOT = "pipeline.csv", "pipeline.png"
_COMPUTED = ("engine", "dtype")
_PERCENTILES = ("p50", "p90", "p99")


def as_text(
  rows: Sequence[Mapping[str, Any]],
  models: Mapping[str, Mapping[str, Any]],
  sample: Sample,
  annotated: Gold,
) -> str:
  """Returns the table of all models on some cores.

  Args:
    rows: rows of the JSON file.
    models: models of the JSON file, by name.
    sample: what was annotated.
    annotated: what was scored on.
  """
  counts = sample.counts
  title = (
    f"{counts['sentences']:,} sentences, {counts['words']:,} words, from words "
    "in memory to annotated sentences in memory; scores in percent, of "
    f"{len(annotated.items):,} sentences"
  )
  methods: dict[str, dict[str, None]] = {}  # method -> its models, in order
  for row in rows:
    methods.setdefault(row["energy"]["method"], {})[row["model"]] = None
  notes = [f"energy, {', '.join(of)}: {how}" for how, of in methods.items()]
  shown = SHOWN[annotated.task]
  lines = [_cells(row, models[row["model"]], shown) for row in rows]
  cells = aligned_table(with_header(lines), "<<<>")
  return "\n".join([title, cells, *notes, ""])


def _cells(
  row: Mapping[str, Any], model: Mapping[str, Any], shown: Sequence[str]
) -> dict[str, str]:
  start, per_word = row["first_answer_s"], row["energy"].get("joules_per_word")
  scores = model["scores"] or {}
  cells = {
    "model": row["model"],
    **{name: model[name] for name in _COMPUTED},
    "cores": str(row["cores"]),
    **{name: number(scores.get(name), ".2f") for name in shown},
    "words/s": f"{row['words_s']:,.0f}",
    "sentences/s": f"{row['sentences_s']:,.1f}",
  }
  for size, seconds in row["latency_s"].items():
    percentiles = _PERCENTILES if size == "1" else _PERCENTILES[:1]
    cells |= {
      f"{size}: {p} ms": f"{1e3 * seconds[p]:,.1f}" for p in percentiles
    }
  cells |= {
    "to encoder": number(row["over_encoder"], ".2f", "x"),
    "MB": f"{row['peak_bytes'] / 1e6:,.0f}",
    "first s": f"{start['cold']:.1f}",
    "again": f"{start['warm']:.1f}",
    "mJ/word": number(per_word and 1e3 * per_word, ".3g"),
  }
  ratios = {f"{k} to first": f"{v:.3g}x" for k, v in row["to_first"].items()}
  return cells | ratios


def costs(content: Mapping[str, Any]) -> str:
  """Returns what 8 bits cost in scores, a line for each model in them.

  Args:
    content: content of the JSON file.
  """
  shown = SHOWN[content["task"]]
  known = [m for m in content["models"] if m["against_float32"]]
  return "".join(f"{int8_cost.in_words(model, shown)}\n" for model in known)


def write(
  folder: pathlib.Path, content: Mapping[str, Any], drawn: Sequence[str]
) -> None:
  """Writes pipeline.csv and the plot; says if there is nothing to draw.

  Args:
    folder: an existing folder.
    content: content of the JSON file.
    drawn: the scores that are drawn.
  """
  atomic_file.write_text(folder / _FLAT, as_csv(content))
  figure = frontier_plot.figure(content, drawn)
  if figure:
    figure.savefig(folder / _PLOT, format="png")
  else:
    print(f"No {_PLOT}: no model has scores.")


def as_csv(content: Mapping[str, Any]) -> str:
  """Returns a line for each model and number of cores.

  Args:
    content: content of the JSON file.
  """
  of_model = {model["name"]: model for model in content["models"]}
  metrics = dict.fromkeys(
    name for model in of_model.values() for name in model["scores"] or ()
  )
  lines = []
  for row in content["rows"]:
    model = of_model[row["model"]]
    line = {"model": row["model"]} | {k: model[k] for k in _COMPUTED}
    line |= {k: row[k] for k in ("cores", "words_s", "sentences_s")}
    for size, seconds in row["latency_s"].items():
      line |= {f"{p}_ms_of_{size}": 1e3 * seconds[p] for p in _PERCENTILES}
    line |= {f"first_answer_s_{k}": v for k, v in row["first_answer_s"].items()}
    line |= {k: row[k] for k in ("over_encoder", "peak_bytes")}
    line["joules_per_word"] = row["energy"].get("joules_per_word")
    own = model["scores"] or {}
    lines.append(line | {name: own.get(name) for name in metrics})
  text = io.StringIO()
  writer = csv.DictWriter(text, lines[0], lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return text.getvalue()
