"""The mean score of models, drawn against their cost or against a setting."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.report import names, table
from time_jax.report.table import Row

MS = "ms, median of a batch"
BEST = "best for its cost: no other is cheaper and better"
Spot = tuple[float, float, str]  # x, y, name


def plot(rows: Sequence[Row], path: pathlib.Path) -> bool:
  """Draws mean score against latency, or against size where none is known.

  Args:
    rows: models in languages.
    path: the PNG file.

  Returns:
    Whether there was anything to draw.
  """
  if any(row.speed for row in rows):
    xs = [row.speed.milliseconds if row.speed else None for row in rows]
    return save(figure(rows, xs, MS), path)
  sizes = [row.parameters and row.parameters / 1e6 for row in rows]
  return save(figure(rows, sizes, "million parameters"), path)


def save(drawn: Any, path: pathlib.Path) -> bool:
  """Saves what `figure` returns; says whether there was anything to draw."""
  if drawn:
    drawn.savefig(path, format="png")
  return drawn is not None


def figure(
  rows: Sequence[Row],
  xs: Sequence[float | None],
  xlabel: str,
  *,
  costs: bool = True,
  logarithmic: bool = True,
  groups: Sequence[str] | None = None,
) -> Any:
  """Draws the mean score of every row against its cost or a setting.

  The mean is over the test scores that all models of a language have. Of a
  single score of several seeds, a bar shows the standard deviation.

  Args:
    rows: models in languages, with their scores.
    xs: the cost or setting of each row; rows with None are left out.
    xlabel: label of the x axis.
    costs: whether a smaller x is better: then a dashed line shows the best
      score that can be had for each cost.
    logarithmic: whether the x axis is, but for 0, which it then begins with.
    groups: the other settings of each row: a line joins the rows of a language
      that agree in them. None: no rows are joined.

  Returns:
    The figure of matplotlib, or None if there is nothing to draw.
  """
  rows, places = table.with_common(rows), xs
  spots = _spots(rows, places, groups or [""] * len(rows))
  if not spots:
    return None
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure

  drawn = Figure(figsize=(7, 5), dpi=120, layout="constrained")
  axes = drawn.subplots()
  for (lang, group), own in spots.items():
    some = next(row for row in rows if row.lang == lang and row.common)
    scores = ", ".join(some.common)
    label = f"{lang or '-'}: {scores}{f', {group}' if group else ''}"
    xs, ys, _ = zip(*sorted(own), strict=True)
    axes.plot(xs, ys, "o" if groups is None else "o-", label=label)
  if costs:
    _draw_best(axes, spots)
  every = [spot for own in spots.values() for spot in own]
  _draw_spread(axes, rows, places)
  shown = {name for row in rows for name in row.common}
  ylabel = shown.pop() if len(shown) == 1 else "mean score"
  axes.set(xlabel=xlabel, ylabel=f"{ylabel} (%)")
  axes.margins(0.1)
  if logarithmic:
    _set_logarithmic(axes, [x for x, _, _ in every])
  axes.grid(alpha=0.3, which="both")
  # Below the axes, where it covers no name.
  drawn.legend(loc="outside lower center", ncols=1, fontsize="small")
  write_names(axes, every)
  return drawn


def _draw_spread(
  axes: Any, rows: Sequence[Row], xs: Sequence[float | None]
) -> None:
  """Draws a bar for each row of which one score is shown, of several seeds."""
  for row, x in zip(rows, xs, strict=True):
    if x is None or len(row.common) != 1:
      continue
    cell = row.cells[row.common[0]]
    if cell.seeds > 1:
      bar = {"fmt": "none", "ecolor": "0.4", "capsize": 3, "zorder": 1}
      axes.errorbar([x], [cell.mean], [cell.std], **bar)


def write_names(
  axes: Any,
  spots: Sequence[Spot],
  others: Sequence[tuple[float, float]] = (),
) -> None:
  """Writes the names of spots beside them, when all else is drawn.

  Args:
    axes: axes of matplotlib.
    spots: the spots; one whose name is empty gets none.
    others: (x, y) of spots without names, which no name is to lie on either.
  """
  from matplotlib.patheffects import withStroke

  # What a name cannot help to lie on, such as a line, does not cross it out.
  halo = [withStroke(linewidth=2, foreground="white")]
  drawn = [
    axes.annotate(
      name,
      (x, y),
      (0, 0),
      textcoords="offset points",
      fontsize="small",
      arrowprops=names.LEADER,
      path_effects=halo,
      # The frame does not shrink for names, which are placed in it.
      in_layout=False,
    )
    for x, y, name in spots
    if name
  ]
  names.place(axes, drawn, [*((x, y) for x, y, _ in spots), *others])


def _spots(
  rows: Sequence[Row], xs: Sequence[float | None], groups: Sequence[str]
) -> dict[tuple[str, str], list[Spot]]:
  """Returns the points to draw of each language and group."""
  spots: dict[tuple[str, str], list[Spot]] = {}
  for row, x, group in zip(rows, xs, groups, strict=True):
    if x is not None and row.mean is not None:
      spot = (x, row.mean, row.label)
      spots.setdefault((row.lang, group), []).append(spot)
  return spots


def _draw_best(
  axes: Any, spots: Mapping[tuple[str, str], Sequence[Spot]]
) -> None:
  """Draws a dashed line for each language; the first one is in the legend."""
  label = BEST
  for lang in dict.fromkeys(lang for lang, _ in spots):
    own = [s for (of, _), some in spots.items() if of == lang for s in some]
    best = front(own)
    if len(best) > 1:
      style = {"color": "0.5", "drawstyle": "steps-post", "zorder": 1}
      axes.plot(*zip(*best, strict=True), "--", label=label, **style)
      label = "_"  # matplotlib leaves it out of the legend.


def _set_logarithmic(axes: Any, xs: Sequence[float]) -> None:
  """Makes the x axis logarithmic; zeros get a place beside the smallest x."""
  from matplotlib.ticker import LogLocator, SymmetricalLogLocator

  above = [x for x in xs if x > 0]
  # Over many powers of ten the numbers would run into each other.
  many = above and max(above) >= 300 * min(above)
  between = (2, 5) if many else (2, 3, 5)
  if len(above) == len(xs):
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=between))
  elif above:
    axes.set_xscale("symlog", linthresh=min(above), linscale=0.5)
    scale = axes.xaxis.get_transform()
    axes.xaxis.set_minor_locator(SymmetricalLogLocator(scale, subs=between))
  axes.xaxis.set_major_formatter("{x:g}")
  axes.xaxis.set_minor_formatter("{x:g}")


def front(points: Sequence[Spot]) -> list[tuple[float, float]]:
  """Returns the Pareto front: points (x, y) with no better y at a smaller x."""
  best: list[tuple[float, float]] = []
  for x, y, _ in sorted(points, key=lambda point: (point[0], -point[1])):
    if not best or y > best[-1][1]:
      best.append((x, y))
  return best
