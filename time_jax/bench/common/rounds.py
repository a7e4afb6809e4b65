"""Measurements in turns, so that a machine's moods meet all alike."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Name = TypeVar("Name")


def in_turns(
  names: Sequence[Name], count: int, measure: Callable[[Name], Any]
) -> dict[Name, list[Any]]:
  """Measures everything in every round, each round in the opposite order.

  Args:
    names: what is measured.
    count: number of rounds.
    measure: measures one of them once.

  Returns:
    Of each name, what `measure` has returned in every round.
  """
  found: dict[Name, list[Any]] = {name: [] for name in names}
  for i in range(count):
    for name in names[:: -1 if i % 2 else 1]:
      found[name].append(measure(name))
  return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
  """Returns the median, over the rounds, of the ratio of two measurements."""
  return statistics.median(a / b for a, b in zip(above, below, strict=True))
