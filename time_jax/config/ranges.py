"""The ranges that the numbers of a config may lie in."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
  """The numbers that a field may have; both ends belong to them.

  Attributes:
    lowest: the smallest.
    highest: the largest.
    whole: whether only whole numbers may be given.
  """

  lowest: float
  highest: float
  whole: bool

  def __contains__(self, value: object) -> bool:
    """Whether a value is such a number; NaN, infinity and a bool are not."""
    kinds = int if self.whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
      return False
    return self.lowest <= value <= self.highest

  def __str__(self) -> str:
    """As a help text shows it."""
    form = "{:,}" if self.whole else "{:g}"
    return " to ".join(form.format(end) for end in (self.lowest, self.highest))


def whole(lowest: int, highest: int) -> Range:
  """Whole numbers between two, which belong to them."""
  return Range(lowest, highest, whole=True)


def real(lowest: float, highest: float) -> Range:
  """All numbers between two, which belong to them."""
  return Range(lowest, highest, whole=False)


def problems(
  fields: Mapping[str, Any], ranges: Mapping[str, Range]
) -> list[str]:
  """Says which fields lie outside of their range.

  Args:
    fields: name -> value. Of a tuple every element is looked at.
    ranges: name -> range; a field without one may have any value.
  """
  found = []
  for name, value in fields.items():
    if name not in ranges:
      continue
    several = isinstance(value, list | tuple)
    if all(one in ranges[name] for one in (value if several else [value])):
      continue
    kind = "whole number" if ranges[name].whole else "number"
    wanted = f"{kind}s" if several else f"a {kind}"
    found.append(f"{name}={value!r}, expected {wanted} from {ranges[name]}")
  return found
