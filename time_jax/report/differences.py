"""Tables of differences between models, with their intervals."""

import itertools
from collections.abc import Mapping, Sequence

from time_jax.core.display import markdown_table
from time_jax.core.errors import UserError
from time_jax.report import bootstrap
from time_jax.report.bootstrap import Draws, Interval, NotComparableError
from time_jax.report.table import Row

HEADER = (
  *("lang", "label", "against", "column"),
  *("difference", "low", "high"),
)
_MEAN = "mean of common"
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
  if any(len(pair) != 2 or not all(pair) for pair in pairs):
    raise UserError(
      f"--lower={text!r}: expected pairs of labels, LABEL:LOWER with commas "
      "between them, such as s:lower-s,xs:lower-xs."
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
    UserError: `lower` names a label that no row has.
  """
  known = {label for row in rows for label in row.labels}
  for label in itertools.chain(lower, lower.values()):
    if label not in known:
      names = ", ".join(sorted(known))
      raise UserError(f"--lower: no result is of {label!r}; known: {names}.")
  lines: list[str] = []
  numbers: list[list[object]] = []
  for lang, of_lang in itertools.groupby(rows, key=lambda row: row.lang):
    own = list(of_lang)
    if len(own) < 2 or not own[0].common:
      continue
    lines += ["", f"## {lang or '-'}: differences", ""]
    try:
      group = _Group(own)
    except NotComparableError as error:
      lines.append(f"Not compared: {error}.")
      continue
    lines += group.from_teacher(teacher, lower) + group.pairs()
    numbers += group.numbers()
  return lines, numbers


class _Group:
  """The rows of a language, and their scores on the same drawn files."""

  def __init__(self, rows: Sequence[Row]) -> None:
    self.rows, self.columns = rows, rows[0].common
    drawn = bootstrap.draw([row.results for row in rows], self.columns)
    self.scores = [
      {**own, _MEAN: bootstrap.mean(own, self.columns)} for own in drawn
    ]

  def means(self, label: str) -> Draws | None:
    """Returns the means of the row of a label; None if there is no such row."""
    for row, own in zip(self.rows, self.scores, strict=True):
      if label in row.labels:
        return own[_MEAN]
    return None

  def from_teacher(self, teacher: str, lower: Mapping[str, str]) -> list[str]:
    """Returns a row for each other model: how far it is from the teacher."""
    full = self.means(teacher)
    if full is None:
      return []
    (best,) = (own for own in self.scores if own[_MEAN] is full)
    header = [f"minus {teacher}", *best, f"% of {teacher}"]
    table = [header + ["of the gap closed"] * bool(lower)]
    for row, own in zip(self.rows, self.scores, strict=True):
      if own is best:
        continue
      cells = [_difference(own[name] - best[name]) for name in best]
      cells.append(_text(Interval.of(100 * own[_MEAN] / full), ".1f"))
      if lower:
        cells.append(self._closed(row, own[_MEAN], full, lower))
      table.append([row.label, *cells])
    return [markdown_table(table), ""]

  def _closed(
    self, row: Row, own: Draws, full: Draws, lower: Mapping[str, str]
  ) -> str:
    """Returns the share of the gap from its lower one to the teacher."""
    names = [lower[label] for label in row.labels if label in lower]
    before = self.means(names[0]) if names else None
    if before is None:
      return "-"
    if not Interval.of(full - before).excludes_zero:
      return f"no gap above {names[0]}"
    share = Interval.of(100 * (own - before) / (full - before))
    return f"{_text(share, '.0f')} % above {names[0]}"

  def pairs(self) -> list[str]:
    """Returns the differences of the means, of each two models once."""
    order = sorted(
      range(len(self.rows)), key=lambda i: -float(self.scores[i][_MEAN][0])
    )
    labels = [self.rows[i].label for i in order]
    table = [[f"{_MEAN}: row minus column", *labels[:-1]]]
    for place, i in enumerate(order[1:], 1):
      cells = [
        _difference(self.scores[i][_MEAN] - self.scores[j][_MEAN])
        for j in order[:place]
      ]
      table.append([labels[place], *cells, *[""] * (len(order) - 1 - place)])
    return [markdown_table(table)]

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


def _difference(draws: Draws) -> str:
  """Returns a difference as it is shown: bold if it is more than chance."""
  own = Interval.of(draws)
  text = _text(own, "+.2f")
  return f"**{text}**" if own.excludes_zero else text


def _text(own: Interval, form: str) -> str:
  return f"{own.value:{form}} [{own.low:{form}}, {own.high:{form}}]"
