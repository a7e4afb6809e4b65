"""The plot of scores against words a second, the better to the upper right."""

from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.report import plot

_LABEL = "best for its speed: no other is faster and better"
_MARKERS = "os^v"
_Models = Mapping[str, Mapping[str, Any]]  # by name


def figure(content: Mapping[str, Any], metrics: Sequence[str]) -> Any:
  """Draws a panel for each score and each number of cores.

  A marker says what computes a model. A line joins the points of one model,
  and its name stands at the first. Models without scores are dotted lines at
  their speed.

  Args:
    content: content of the JSON file.
    metrics: the scores that are drawn.

  Returns:
    The figure of matplotlib, or None if no model has scores.
  """
  models = {model["name"]: model for model in content["models"]}
  counts = list(dict.fromkeys(row["cores"] for row in content["rows"]))
  if not any(model["scores"] for model in models.values()):
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
      spots[axes] = _draw(axes, own, models, metric)
      cores = "one core" if count == 1 else f"{count} cores"
      axes.set(ylabel=f"{metric} (%)", title=f"{metric}, {cores}")
  for axes in panels[-1]:
    axes.set(xlabel="words/s")
  # Of all panels: spaCy is in those of one core alone.
  labels = {}
  for axes in drawn.axes:
    handles, names = axes.get_legend_handles_labels()
    labels |= dict(zip(names, handles, strict=True))
  drawn.legend(
    [*labels.values()],
    [*labels],
    loc="outside lower center",
    fontsize="small",
    ncols=2,
  )
  # At last, as panels share their limits.
  for axes, own in spots.items():
    first: dict[str, plot.Spot] = {}
    for spot in own:
      first.setdefault(spot[-1], spot)
    plot.write_names(axes, [*first.values()], [(x, y) for x, y, _ in own])
  return drawn


def _draw(
  axes: Any,
  rows: Sequence[Mapping[str, Any]],
  models: _Models,
  metric: str,
) -> list[plot.Spot]:
  """Draws a panel without names; returns its spots, in the order of rows."""
  kinds = list(dict.fromkeys(map(_kind, models.values())))
  of_model: dict[str, list[plot.Spot]] = {}
  plain, seen = [], set()
  for row in rows:
    model = models[row["model"]]
    score = (model["scores"] or {}).get(metric)
    if score is not None:
      kind, name = _kind(model), model["plain_name"]
      axes.plot(
        *(row["words_s"], score, _MARKERS[kinds.index(kind)]),
        color=f"C{kinds.index(kind)}",
        label=None if kind in seen else kind,
      )
      seen.add(kind)
      of_model.setdefault(name, []).append((row["words_s"], score, name))
    elif model["scores"] is None:
      plain.append(row)
  for own in of_model.values():
    xs, ys, _ = zip(*own, strict=True)
    axes.plot(xs, ys, color="0.8", linewidth=1, zorder=1)
  every = [spot for own in of_model.values() for spot in own]
  _draw_best(axes, every)
  for number, row in enumerate(plain):
    axes.axvline(
      row["words_s"],
      # The first colours are those of points.
      color=f"C{len(_MARKERS) + number % 6}",
      linestyle=":",
      label=f"{row['model']}, without scores",
    )
  axes.margins(0.12)
  _set_ticks(axes)
  axes.grid(alpha=0.3, which="both")
  return every


def _kind(model: Mapping[str, Any]) -> str:
  """Returns what computes a model, in words."""
  return f"{model['engine']}, {model['dtype']}"


def _draw_best(axes: Any, spots: Sequence[plot.Spot]) -> None:
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


def _set_ticks(axes: Any) -> None:
  from matplotlib.ticker import EngFormatter, LogLocator

  axes.set_xscale("log")
  axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
  for set_formatter in (
    axes.xaxis.set_major_formatter,
    axes.xaxis.set_minor_formatter,
  ):
    set_formatter(EngFormatter(sep=""))
