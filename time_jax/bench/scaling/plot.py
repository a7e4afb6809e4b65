"""The plot of `bench scaling`: speed, efficiency and bytes sent."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from time_jax.bench.scaling.points import MODES, Point


def draw(path: pathlib.Path, points: Sequence[Point], title: str) -> None:
  """Draws speed, efficiency and bytes sent over the number of devices.

  Args:
    path: PNG file to write.
    points: what was measured.
    title: heading of the figure.
  """
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4), layout="constrained")
  figure.suptitle(title, fontsize=9)
  speed_axes, efficiency_axes, bytes_axes = figure.subplots(1, 3)
  for mode, marker in zip(MODES, "os", strict=True):
    own = [point for point in points if point.mode == mode]
    if not own:
      continue
    x = np.array([point.devices for point in own])
    speed = np.array([point.tokens_per_second for point in own])
    seconds = np.array([[p.slowest, p.seconds, p.fastest] for p in own]).T
    low, _, high = speed * seconds[1] / seconds
    style: Any = dict(marker=marker, fillstyle="none", label=mode)
    bars = speed_axes.errorbar(
      x, speed, (speed - low, high - speed), capsize=3, **style
    )
    color = bars[0].get_color()
    speed_axes.plot(x, speed[0] * x / x[0], linestyle=":", color=color)
    efficiency_axes.plot(x, [100 * p.efficiency for p in own], **style)
    bytes_axes.plot(x, [p.sent / 1e6 for p in own], **style)
  speed_axes.set(ylabel="tokens/s (dotted: efficiency 100 %)")
  speed_axes.set_yscale("log", base=2)
  speed_axes.yaxis.set_major_formatter("{x:,.0f}")
  efficiency_axes.set(ylabel="efficiency, %", ylim=(0, None))
  bytes_axes.set(ylabel="MB sent by each device in a step", ylim=(0, None))
  counts = sorted({point.devices for point in points})
  for axes in (speed_axes, efficiency_axes, bytes_axes):
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set_xlabel("devices")
    axes.grid(alpha=0.3)
    axes.legend()
  figure.savefig(path, dpi=120, format="png")
