"""What is joined in a plot, what its legend says, where its names stand."""

import itertools

import pytest

from time_jax.report import plot
from time_jax.report.table import Cell, Row


def row(lang, label, score):
  cells = {"UPOS": Cell(score, 0.0, 1, "test")}
  return Row(lang, (label,), 1_000_000, cells)


def lines_of(drawn):
  """Label -> its points, of all lines."""
  (axes,) = drawn.axes
  return {
    line.get_label(): [(float(x), float(y)) for x, y in line.get_xydata()]
    for line in axes.get_lines()
  }


def legend_of(drawn):
  (legend,) = drawn.legends
  return [text.get_text() for text in legend.get_texts()]


def test_lines_join_what_agrees_in_all_else():
  grid = [*itertools.product((2, 4), (192, 384))]
  rows = [row("da", f"width={w}", 10 * d + w / 100) for d, w in grid]
  xs = [d * w / 384 for d, w in grid]
  groups = [f"layers={d}" for d, _ in grid]
  drawn = plot.figure(rows, xs, "ms", groups=groups)
  joined = lines_of(drawn)
  assert joined == {
    "da: UPOS, layers=2": [(1, 21.92), (2, 23.84)],
    "da: UPOS, layers=4": [(2, 41.92), (4, 43.84)],
    plot.BEST: [(1, 21.92), (2, 41.92), (4, 43.84)],
  }
  assert legend_of(drawn) == [*joined]
  dashed = drawn.axes[0].get_lines()[-1]
  assert dashed.get_linestyle() == "--"
  # What costs nothing has no best; what is in no group is not joined.
  more = {"costs": False, "logarithmic": False}
  drawn = plot.figure(rows, xs, "heads", groups=groups, **more)
  assert legend_of(drawn) == ["da: UPOS, layers=2", "da: UPOS, layers=4"]
  drawn = plot.figure(rows, xs, "ms")
  assert legend_of(drawn) == ["da: UPOS", plot.BEST]
  assert drawn.axes[0].get_lines()[0].get_linestyle() == "None"


def test_each_language_has_its_own_best():
  pairs = zip("abab", (1, 5, 2, 6), strict=True)
  rows = [row(lang, "m", score) for lang, score in pairs]
  drawn = plot.figure(rows, [1, 1, 2, 2], "ms")
  assert legend_of(drawn) == ["a: UPOS", "b: UPOS", plot.BEST]
  dashed = [x for x in drawn.axes[0].get_lines() if x.get_linestyle() == "--"]
  ys = [line.get_ydata().tolist() for line in dashed]
  assert ys == [[1, 2], [5, 6]]
  assert plot.figure(rows, [None] * 4, "ms") is None


@pytest.mark.parametrize("costs", [True, False])
def test_names_stay_inside_the_frame(costs):
  name = "a_student_with_quite_a_long_name"
  rows = [row("da", f"{name}_{i}", 50 + i) for i in range(5)]
  rows.append(row("da", f"{name}_and_more" * 9, 60))
  drawn = plot.figure(rows, [1, 2, 4, 8, 16, 9], "ms", costs=costs)
  drawn.draw_without_rendering()
  frame = drawn.axes[0].get_window_extent()
  for text in drawn.axes[0].texts:
    box = text.get_window_extent()
    assert frame.x0 < box.x0 and box.y1 < frame.y1
    assert box.x1 < frame.x1 or box.width > frame.width
  assert len(drawn.axes[0].texts) == 6


@pytest.mark.parametrize(
  ("xs", "labels"),
  [
    ([0, 0.102, 0.409, 1.53], "0 0.1 0.2 0.3 0.5 1 2"),
    ([0, 1, 30, 999], "0 1 2 5 10 20 50 100 200 500 1000 2000"),
    ([0.5, 1, 2, 4], "0.5 1 2 3"),
  ],
)
def test_a_logarithmic_axis_may_begin_with_0(xs, labels):
  rows = [row("hu", "", score) for score in (60, 70, 75, 78)]
  more = {"costs": False, "groups": ["size=s"] * 4}
  drawn = plot.figure(rows, xs, "million tokens", **more)
  drawn.draw_without_rendering()
  (axes,) = drawn.axes
  texts = axes.get_xticklabels() + axes.get_xticklabels(minor=True)
  low, high = axes.get_xlim()
  shown = {
    float(text.get_text()): text.get_text()
    for text in texts
    if low <= text.get_position()[0] <= high
  }
  assert " ".join(shown[x] for x in sorted(shown)) == labels
  assert low < xs[0] and not axes.texts
  places = [axes.transData.transform((x, 60))[0] for x in xs]
  width = axes.get_window_extent().width
  assert all(b - a > 0.1 * width for a, b in itertools.pairwise(places))
  assert legend_of(drawn) == ["hu: UPOS, size=s"]
  (axes,) = plot.figure(rows, [0] * 4, "million tokens", **more).axes
  assert axes.get_xscale() == "linear"


def test_front():
  points = [(1, 5, "a"), (2, 4, "b"), (3, 9, "c"), (1, 3, "d"), (4, 9, "e")]
  assert plot.front(points) == [(1, 5), (3, 9)]


def test_one_score_has_its_name_and_the_spread_of_its_seeds():
  cells = {"LAS": Cell(70.0, 1.5, 2, "test")}
  rows = [Row("hu", ("s",), 1, cells), Row("hu", ("xs",), 1, cells)]
  drawn = plot.figure(rows, [1, None], "steps", costs=False)
  (axes,) = drawn.axes
  assert axes.get_ylabel() == "LAS (%)"
  (bar,) = axes.collections
  (segment,) = bar.get_segments()
  assert segment.tolist() == [[1, 68.5], [1, 71.5]]
  assert legend_of(drawn) == ["hu: LAS"]
  many = [Row("hu", ("s",), 1, cells | {"UPOS": Cell(90.0, 1.0, 2, "test")})]
  (axes,) = plot.figure(many, [1], "steps", costs=False).axes
  assert axes.get_ylabel() == "mean score (%)" and not axes.collections
