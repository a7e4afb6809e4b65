"""Tables of differences between models, with their intervals."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from time_jax.core.display import markdown_table
from time_jax.core.errors import UserError
from time_jax.report import bootstrap, comparable
from time_jax.report.bootstrap import Draws, Interval
from time_jax.report.table import Row

HEADER = (
  *("lang", "label", "against", "column"),
  *("difference", "low", "high"),
)
_MEAN, _NOTHING = "mean", "-"
ABOUT = (
  f"Differences in points, with the middle 95 % over {bootstrap.FILES:,} test "
  "files that are drawn from the sentences or questions of the real one; bold: "
  "more than chance."
)


def parse_lower(text: str) -> dict[str, str]:
  """Returns label -> label of what it is to beat, of `--lower`.

  >>> parse_lower("s:lower-s,xs:lower-xs")
  {'s': 'lower-s', 'xs': 'lower-xs'}

  Args:
    text: pairs of labels; "" is none.

  Raises:
    UserError: it is not made of pairs.
  """
  pairs = [pair.split(":") for pair in text.split(",") if text]
  sound = all(len(pair) == 2 and all(pair) for pair in pairs)
  if not sound or len({pair[0] for pair in pairs}) < len(pairs):
    raise UserError(
      f"--lower={text!r}: expected pairs of labels, LABEL:LOWER with commas "
      "between them and each LABEL once, such as s:lower-s,xs:lower-xs."
    )
  return dict(pairs)


def tables(
  rows: Sequence[Row], teacher: str, lower: Mapping[str, str]
) -> tuple[list[str], list[list[object]]]:
  """Returns tables for each language, and all numbers for a CSV.

  Args:
    rows: all rows of a report.
    teacher: label of the model that others are compared with; "" is none.
    lower: see `parse_lower`.

  Returns:
    Lines of Markdown, and lines below `HEADER`.

  Raises:
    UserError: `lower` names a label that no row has, or there is no teacher.
  """
  _check_lower(rows, teacher, lower)
  lines: list[str] = []
  numbers: list[list[object]] = []
  for lang, of_lang in itertools.groupby(rows, key=lambda row: row.lang):
    own = list(of_lang)
    if len(own) < 2:
      continue
    lines += ["", f"## {lang or '-'}: differences"]
    found, reasons = comparable.groups(own)
    for group in map(_Group, found):
      lines += group.from_teacher(teacher, lower) + group.pairs()
      numbers += group.numbers()
    if reasons:
      lines += ["", "Without intervals:", "", *(f"* {why}" for why in reasons)]
  return lines, numbers


def _check_lower(
  rows: Sequence[Row], teacher: str, lower: Mapping[str, str]
) -> None:
  """Raises UserError where the labels of `lower` cannot be compared."""
  if lower and not teacher:
    raise UserError(
      "--lower says what models should beat on the way to their teacher; "
      "expected --teacher=LABEL with it."
    )
  known = {label for row in rows for label in row.labels}
  for label in itertools.chain(lower, lower.values()):
    if label not in known:
      names = ", ".join(sorted(known))
      raise UserError(f"--lower: no result is of {label!r}; known: {names}.")


class _Group:
  """Models that can be compared, and their scores on the same drawn files."""

  def __init__(self, found: comparable.Group) -> None:
    self.rows = [model.row for model in found.models]
    self.columns = found.columns
    items = [model.items for model in found.models]
    drawn = bootstrap.draw(items, found.columns)
    self.scores = [
      {**own, _MEAN: bootstrap.mean(own, found.columns)} for own in drawn
    ]

  def place(self, label: str) -> int | None:
    """Returns the number of the row of a label; None if there is none."""
    places = (i for i, row in enumerate(self.rows) if label in row.labels)
    return next(places, None)

  def from_teacher(self, teacher: str, lower: Mapping[str, str]) -> list[str]:
    """Returns a row for each other model: how far it is from the teacher."""
    first = self.place(teacher)
    if first is None:
      return []
    best = self.scores[first]
    header = [f"minus {teacher}", *best, f"% of {teacher}"]
    table = [header + ["of the gap closed"] * bool(lower)]
    for i, (row, own) in enumerate(zip(self.rows, self.scores, strict=True)):
      if i == first:
        continue
      cells = [_difference(own[name] - best[name]) for name in best]
      cells.append(_percent(own[_MEAN], best[_MEAN], ".1f"))
      if lower:
        names = [lower[label] for label in row.labels if label in lower]
        cells.append(self._closed(own[_MEAN], best[_MEAN], names))
      table.append([row.label, *cells])
    return ["", markdown_table(table)]

  def _closed(self, own: Draws, full: Draws, names: Sequence[str]) -> str:
    """Returns the share of the gap from a lower model up to the teacher."""
    place = self.place(names[0]) if names else None
    if place is None:
      return _NOTHING
    before = self.scores[place][_MEAN]
    if not Interval.of(full - before).low > 0:
      return f"no sure gap above {names[0]}"
    share = _percent(own - before, full - before, ".0f")
    if share == _NOTHING:
      return f"the gap above {names[0]} is too small to say"
    return f"{share} % above {names[0]}"

  def pairs(self) -> list[str]:
    """Returns the differences of the means, of each two models once."""
    order = sorted(
      range(len(self.rows)), key=lambda i: -float(self.scores[i][_MEAN][0])
    )
    labels = [self.rows[i].label for i in order]
    columns = ", ".join(self.columns)
    table = [[f"mean of {columns}: row minus column", *labels[:-1]]]
    for place, i in enumerate(order[1:], 1):
      cells = [
        _difference(self.scores[i][_MEAN] - self.scores[j][_MEAN])
        for j in order[:place]
      ]
      table.append([labels[place], *cells, *[""] * (len(order) - 1 - place)])
    return ["", markdown_table(table)]

  def numbers(self) -> list[list[object]]:
    """Returns every difference of two models, unrounded."""
    found: list[list[object]] = []
    for i, j in itertools.permutations(range(len(self.rows)), 2):
      for name in self.scores[i]:
        own = Interval.of(self.scores[i][name] - self.scores[j][name])
        one, other = self.rows[i], self.rows[j]
        found.append(
          [one.lang, one.label, other.label, name, own.value, own.low, own.high]
        )
    return found


def _percent(part: Draws, whole: Draws, form: str) -> str:
  """Returns a share in percent; `_NOTHING` where a drawn file has no whole."""
  if np.min(whole) <= 0:
    return _NOTHING
  return _text(Interval.of(100 * part / whole), form)


def _difference(draws: Draws) -> str:
  """Returns a difference as it is shown: bold if it is more than chance."""
  own = Interval.of(draws)
  text = _text(own, "+.2f")
  return f"**{text}**" if own.excludes_zero else text


def _text(own: Interval, form: str) -> str:
  return f"{own.value:{form}} [{own.low:{form}}, {own.high:{form}}]"
