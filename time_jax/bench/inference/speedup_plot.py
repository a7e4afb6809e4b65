"""The plot of speed-ups: every model compared with the first one."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> bool:
  """Draws the speed-up of all models over the batch size.

  Args:
    rows: results as in the JSON file of `bench inference`.
    path: PNG file to write.

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

  models = list(dict.fromkeys(model for model, _ in lines))
  engines = list(dict.fromkeys(engine for _, engine in lines))
  figure = Figure(figsize=(7, 4.5), layout="constrained")
  axes = figure.subplots()
  for (model, engine), points in lines.items():
    style = engines.index(engine) % 4
    axes.plot(
      *zip(*points, strict=True),
      color=f"C{models.index(model)}",
      linestyle=("-", "--", ":", "-.")[style],
      marker="osv^"[style],
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
  for set_formatter in (
    axes.yaxis.set_major_formatter,
    axes.yaxis.set_minor_formatter,
  ):
    set_formatter(StrMethodFormatter("{x:g}"))
  axes.grid(alpha=0.3, which="both")
  figure.legend(loc="outside right upper")
  figure.savefig(path, dpi=120, format="png")
  return True
