"""The values that the fields of a config may have."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
  """The numbers that a field may have.

  Attributes:
    lowest: the smallest one.
    highest: the largest one.
    whole: whether only whole numbers may be given.
  """

  lowest: float
  highest: float
  whole: bool

  def __contains__(self, value: object) -> bool:
    """Returns whether a value is in the range; NaN and a bool never are."""
    kinds = int if self.whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
      return False
    return self.lowest <= value <= self.highest

  def __str__(self) -> str:
    """Returns the range as a help text shows it."""
    form = "{:,}" if self.whole else "{:g}"
    return " to ".join(form.format(end) for end in (self.lowest, self.highest))


def whole(lowest: int, highest: int) -> Range:
  """Returns the range of the whole numbers from lowest to highest."""
  return Range(lowest, highest, whole=True)


def real(lowest: float, highest: float) -> Range:
  """Returns the range of all numbers from lowest to highest."""
  return Range(lowest, highest, whole=False)


def out_of_range(
  fields: Mapping[str, Any],
  ranges: Mapping[str, Range],
  choices: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
  """Returns a phrase for each field whose value is not among those allowed.

  Args:
    fields: name -> value; of a tuple every element is checked.
    ranges: name -> allowed numbers; fields without a range are not checked.
    choices: name -> allowed texts; those of absent fields are ignored.
  """
  wrong = []
  for name, value in fields.items():
    if name not in ranges:
      continue
    allowed = ranges[name]
    several = isinstance(value, list | tuple)
    if not all(one in allowed for one in (value if several else [value])):
      kind = "whole number" if allowed.whole else "number"
      expected = f"{kind}s" if several else f"a {kind}"
      wrong.append(f"{name}={value!r}, expected {expected} from {allowed}")
  for name, texts in (choices or {}).items():
    if name in fields and fields[name] not in texts:
      wrong.append(
        f"{name}={fields[name]!r}, expected one of {', '.join(texts)}"
      )
  return wrong


def refuse(problems: Sequence[str]) -> None:
  """Raises a UserError that lists the problems of a config, if any."""
  if problems:
    raise UserError("bad configuration: " + "; ".join(problems) + ".")
