"""Places the names of a plot's spots: inside the frame, on nothing else."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

_EDGE = 3  # pixels around spots, and inside the frame
_NEAREST, _FURTHEST, _STEP = 4, 100, 8  # points between a spot and its name
# The line from a spot to its name.
LEADER = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkB": 2}
_Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels


def place(
  axes: Any, names: Sequence[Any], spots: Sequence[tuple[float, float]]
) -> None:
  """Moves names to the nearest free places around their spots.

  Where none is free, a name covers as little as can be. What is wider than the
  frame begins in it.

  Args:
    axes: axes of matplotlib, with their final limits.
    names: annotations of it with textcoords "offset points".
    spots: (x, y) of all that no name may lie on, in the units of the data.
  """
  # Imported here, as wherever something is drawn.
  from matplotlib.text import Text

  axes.figure.draw_without_rendering()  # Only then is the frame's size known.
  frame, points = axes.get_window_extent(), 72 / axes.figure.dpi
  around = [axes.transData.transform(spot) for spot in spots]
  taken = [(x - _EDGE, y - _EDGE, x + _EDGE, y + _EDGE) for x, y in around]
  for name in names:
    name.set(ha="left", va="bottom")
    text = Text.get_window_extent(name)  # without the line to its spot
    x, y = axes.transData.transform(name.xy)
    boxes = (
      _inside((left, bottom, left + text.width, bottom + text.height), frame)
      for left, bottom in _corners(x, y, text.width, text.height, 1 / points)
    )
    # The first of the least, which is the nearest.
    best = min(boxes, key=lambda box: sum(_common(box, b) for b in taken))
    taken.append(best)
    name.xyann = ((best[0] - x) * points, (best[1] - y) * points)


def _corners(
  x: float, y: float, width: float, height: float, pixels: float
) -> Iterator[tuple[float, float]]:
  """Yields lower left corners of a box beside a spot, and further and further.

  Args:
    x: where the spot is, in pixels.
    y: likewise.
    width: of the box, in pixels.
    height: likewise.
    pixels: of a point.
  """
  for distance in range(_NEAREST, _FURTHEST, _STEP):
    far = distance * pixels
    # Right above first, as one writes; the corner that is nearest to the spot.
    for eighth in (1, 3, 7, 5, 2, 6, 0, 4):
      right, up = (
        round(function(math.pi * eighth / 4), 3)
        for function in (math.cos, math.sin)
      )
      left = x + right * far - width * (1 - _sign(right)) / 2
      yield left, y + up * far - height * (1 - _sign(up)) / 2


def _sign(value: float) -> int:
  return (value > 0) - (value < 0)


def _inside(box: _Box, frame: Any) -> _Box:
  """Returns a box shifted into the frame; its left end, if it is too wide."""
  left, bottom, right, top = box
  x = min(left, frame.x1 - _EDGE - (right - left))
  y = min(bottom, frame.y1 - _EDGE - (top - bottom))
  x, y = max(x, frame.x0 + _EDGE), max(y, frame.y0 + _EDGE)
  return x, y, x + right - left, y + top - bottom


def _common(a: _Box, b: _Box) -> float:
  """Returns the area that two boxes have in common."""
  width = min(a[2], b[2]) - max(a[0], b[0])
  height = min(a[3], b[3]) - max(a[1], b[1])
  return max(width, 0) * max(height, 0)
