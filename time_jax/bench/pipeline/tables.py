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


def speeds(rows: Sequence[Mapping[str, Any]], sample: Sample) -> str:
  """Returns the table of all models on some cores, with what its columns mean.

  Args:
    rows: rows of the JSON file.
    sample: what was annotated.
  """
  counts, measured = sample.counts, any(map(_energy_of_word, rows))
  title = (
    f"{counts['sentences']:,} sentences, {counts['words']:,} words, from words "
    "in memory to annotated sentences in memory\n"
    "N: p50, p90, p99: ms of N sentences at once; over: time over that of the "
    "encoder alone; MB: peak memory\n"
    "cold, warm: s to the first answer, warm with programs compiled before; "
    f"{'mJ: of a word; ' if measured else ''}x: times as fast as the first row"
  )
  methods: dict[str, dict[str, None]] = {}  # method -> its models, in order
  for row in rows:
    methods.setdefault(row["energy"]["method"], {})[row["model"]] = None
  notes = [f"energy, {', '.join(of)}: {how}" for how, of in methods.items()]
  cells = aligned_table(with_header([_speed(r, measured) for r in rows]), "<>")
  return "\n".join([title, cells, *notes, ""])


def _energy_of_word(row: Mapping[str, Any]) -> float | None:
  """Returns joules, or None where they are not measured."""
  return row["energy"].get("joules_per_word")


def _speed(row: Mapping[str, Any], measured: bool) -> dict[str, str]:
  """Returns the cells of a row, with one for energy where it is measured."""
  start, per_word = row["first_answer_s"], _energy_of_word(row)
  cells = {
    "model": row["model"],
    "cores": str(row["cores"]),
    "words/s": f"{row['words_s']:,.0f}",
  }
  for size, seconds in row["latency_s"].items():
    percentiles = _PERCENTILES if size == "1" else _PERCENTILES[:1]
    cells |= {f"{size}: {p}": f"{1e3 * seconds[p]:,.1f}" for p in percentiles}
  cells |= {
    "over": number(row["over_encoder"], ".2f"),
    "MB": f"{row['peak_bytes'] / 1e6:,.0f}",
    "cold": f"{start['cold']:.1f}",
    "warm": f"{start['warm']:.1f}",
  }
  if measured:
    cells["mJ"] = number(per_word and 1e3 * per_word, ".3g")
  return cells | {f"x {k}": f"{v:.3g}" for k, v in row["to_first"].items()}


def scores(content: Mapping[str, Any], annotated: Gold) -> str:
  """Returns the table of scores, and what 8 bits cost in them.

  Args:
    content: content of the JSON file.
    annotated: what was scored on.
  """
  shown, models = SHOWN[annotated.task], content["models"]
  lines = [
    {"model": model["name"]}
    | {name: model[name] for name in _COMPUTED}
    | {name: number((model["scores"] or {}).get(name), ".2f") for name in shown}
    for model in models
  ]
  known = [model for model in models if model["against_float32"]]
  return "\n".join(
    [
      f"scores in percent, of {len(annotated.items):,} sentences",
      aligned_table(with_header(lines), "<<<>"),
      *(int8_cost.in_words(model, shown) for model in known),
      "",
    ]
  )


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
