"""Numbers of devices to measure, and what each of them shows."""

import copy
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from time_jax.core.errors import UserError

MODES = ("weak", "strong")


@dataclasses.dataclass(frozen=True)
class Point:
  """Result for one number of devices, in one mode.

  Attributes:
    mode: "weak": each device keeps its rows; "strong": all together do.
    devices: number of devices.
    rows: rows of the global batch.
    seconds: median time of a step over all rounds.
    fastest: shortest time of a step.
    slowest: longest time of a step.
    tokens_per_second: speed of all devices, at the median.
    efficiency: tokens/s divided by what as many devices would reach if each
      were as fast as one of the smallest number.
    sent: bytes that each device sends in a step.
  """

  mode: str
  devices: int
  rows: int
  seconds: float
  fastest: float
  slowest: float
  tokens_per_second: float
  efficiency: float
  sent: int


def rows_for(
  config: ConfigDict, counts: Sequence[int], mode: str
) -> dict[int, int]:
  """Returns number of devices -> rows of the global batch.

  Args:
    config: recipe whose global batch is that of the largest number.
    counts: numbers of devices.
    mode: one of `MODES`.

  Raises:
    UserError: the batch cannot be split over the largest number.
  """
  rows, most = config.train.global_batch_size, max(counts)
  if mode == "strong":
    return dict.fromkeys(counts, rows)
  if rows % most:
    raise UserError(
      f"train.global_batch_size={rows} must be divisible by the largest number "
      f"of devices, {most}; the next one up is {-(-rows // most) * most}."
    )
  return {n: rows // most * n for n in counts}


def config_for(config: ConfigDict, count: int, rows: int) -> ConfigDict:
  """Returns the recipe for some devices and rows.

  Of the mesh axes tensor and fsdp it keeps as much as so many devices can hold.
  """
  config = copy.deepcopy(config)
  config.train.global_batch_size = rows
  for name in ("tensor", "fsdp"):
    size = config.mesh[name]
    config.mesh[name] = count if size == -1 else math.gcd(size, count)
    count //= config.mesh[name]
  config.mesh.data = count
  return config


def points_of(
  mode: str, measured: Mapping[int, Sequence[Mapping[str, Any]]]
) -> Iterator[Point]:
  """Yields the points of one mode, from the smallest number of devices up.

  Args:
    mode: one of `MODES`.
    measured: number of devices -> measurements of all rounds.
  """
  base = 0.0
  for count, measurements in measured.items():
    seconds = [s for record in measurements for s in record["step_seconds"]]
    median = statistics.median(seconds)
    speed = measurements[0]["tokens"] / median
    base = base or speed / count
    yield Point(
      mode=mode,
      devices=count,
      rows=measurements[0]["rows"],
      seconds=median,
      fastest=min(seconds),
      slowest=max(seconds),
      tokens_per_second=speed,
      efficiency=speed / (count * base),
      sent=sum(total["sent"] for total in measurements[0]["collectives"]),
    )
