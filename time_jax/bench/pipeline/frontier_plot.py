"""The plot of scores against words a second, the better to the upper right."""

from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.report import plot

_LABEL = "best for its speed: no other is faster and better"


def figure(content: Mapping[str, Any], metrics: Sequence[str]) -> Any:
  """Draws a panel for each score and each number of cores.

  Models without scores are dotted lines at their speed.

  Args:
    content: content of the JSON file.
    metrics: the scores that are drawn.

  Returns:
    The figure of matplotlib, or None if no model has scores.
  """
  scores = {model["name"]: model["scores"] for model in content["models"]}
  counts = list(dict.fromkeys(row["cores"] for row in content["rows"]))
  if not any(scores.values()):
    return None
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure

  size = 1 + 4.5 * len(metrics), 0.8 + 4 * len(counts)
  drawn = Figure(figsize=size, dpi=120, layout="constrained")
  panels = drawn.subplots(
    len(counts), len(metrics), squeeze=False, sharex=True, sharey="col"
  )
  spots = {}
  for count, line in zip(counts, panels, strict=True):
    own = [row for row in content["rows"] if row["cores"] == count]
    for metric, axes in zip(metrics, line, strict=True):
      spots[axes] = _draw(axes, own, scores, metric)
      cores = "one core" if count == 1 else f"{count} cores"
      axes.set(ylabel=f"{metric} (%)", title=f"{metric}, {cores}")
  for axes in panels[-1]:
    axes.set(xlabel="words/s")
  handles, labels = panels[0][0].get_legend_handles_labels()
  drawn.legend(handles, labels, loc="outside lower center", fontsize="small")
  # At last, as panels share their limits.
  for axes, own in spots.items():
    plot.write_names(axes, own)
  return drawn


def _draw(
  axes: Any,
  rows: Sequence[Mapping[str, Any]],
  scores: Mapping[str, Mapping[str, float] | None],
  metric: str,
) -> list[plot.Spot]:
  """Draws a panel without names; returns its spots with their names."""
  from matplotlib.ticker import EngFormatter, LogLocator

  spots, plain = [], []
  for row in rows:
    score = (scores[row["model"]] or {}).get(metric)
    if score is not None:
      spots.append((row["words_s"], score, row["model"]))
    elif scores[row["model"]] is None:
      plain.append(row)
  axes.plot([x for x, _, _ in spots], [y for _, y, _ in spots], "o")
  best = plot.front([(1 / x, y, name) for x, y, name in spots])
  axes.plot(
    [1 / x for x, _ in best],
    [y for _, y in best],
    "--",
    color="0.5",
    drawstyle="steps-post",
    zorder=1,
    label=_LABEL,
  )
  for number, row in enumerate(plain):
    axes.axvline(
      row["words_s"],
      color=f"C{1 + number % 9}",
      linestyle=":",
      label=f"{row['model']}, without scores",
    )
  axes.margins(0.12)
  axes.set_xscale("log")
  axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
  for set_formatter in (
    axes.xaxis.set_major_formatter,
    axes.xaxis.set_minor_formatter,
  ):
    set_formatter(EngFormatter(sep=""))
  axes.grid(alpha=0.3, which="both")
  return spots
