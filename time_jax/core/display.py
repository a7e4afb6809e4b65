"""How tables, lists and sizes are shown to people.

`rich` and `tabulate` do more than is wanted here: the one cuts lines where it
takes a terminal to end, also in a log file, and the other is not installed by
anything that this package needs.
"""

from collections.abc import Mapping, Sequence


def with_header(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
  """Returns the lines of a table: the names of its columns, then the cells.

  >>> with_header([{"name": "a", "ms": "12.50"}, {"name": "b", "ms": "3.10"}])
  [['name', 'ms'], ['a', '12.50'], ['b', '3.10']]

  Args:
    rows: name of a column -> its cell, for each row; the same names in all.
  """
  return [list(rows[0]), *(list(row.values()) for row in rows)]


def percent(value: float | None) -> str:
  """Returns a score in percent for a table.

  >>> percent(81.237), percent(None)
  ('81.24', 'undefined')
  """
  return "undefined" if value is None else f"{value:.2f}"


def aligned_table(
  rows: Sequence[Sequence[str]], align: str = "<", gap: str = "  "
) -> str:
  """Returns rows as lines in which every column is as wide as its widest cell.

  >>> print(aligned_table([["name", "ms"], ["a", "12.50"]], align="<>"))
  name     ms
  a     12.50

  Args:
    rows: the cells of every line, the header among them; all of one length.
    align: "<" (left) or ">" (right) for each column; the last mark holds for
      the columns without one.
    gap: text between two columns.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  marks = align.ljust(len(widths), align[-1])
  return "\n".join(
    gap.join(
      f"{cell:{mark}{width}}"
      for cell, mark, width in zip(row, marks, widths, strict=False)
    ).rstrip()
    for row in rows
  )


def markdown_table(rows: Sequence[Sequence[str]], align: str = "<>") -> str:
  """Returns rows as a table in Markdown, the first of them as its header.

  >>> print(markdown_table([["name", "ms"], ["a", "12.50"]]))
  | name | ms |
  | --- | --: |
  | a | 12.50 |

  Args:
    rows: the cells of every line, the header among them.
    align: see `aligned_table`.
  """
  header, *body = rows
  marks = align.ljust(len(header), align[-1])
  rule = ["---" if mark == "<" else "--:" for mark in marks[: len(header)]]
  return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *body))


def byte_size(count: float) -> str:
  """Returns a number of bytes with a decimal unit.

  >>> byte_size(999), byte_size(1_500_000), byte_size(2.5e12)
  ('999 B', '1.5 MB', '2500.00 GB')

  Args:
    count: bytes.
  """
  for unit in ("B", "kB", "MB"):
    if count < 999.5:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.2f} GB"


def number(value: float | None, form: str, unit: str = "") -> str:
  """Returns a formatted number, or "-" for None.

  >>> number(0.5, ".1f", "x"), number(None, ".1f", "x")
  ('0.5x', '-')

  Args:
    value: number, or None if it is not known.
    form: format specification, such as ".2f".
    unit: text after the number.
  """
  return "-" if value is None else f"{value:{form}}{unit}"


def first_of(problems: Sequence[str], most: int) -> str:
  """Lists problems in a message, and counts those that it leaves out.

  >>> first_of(["a is missing", "b is missing", "c is missing"], 2)
  'a is missing; b is missing; and 1 more'

  Args:
    problems: the problems, one or more.
    most: how many are shown at most.
  """
  hidden = len(problems) - most
  rest = [f"and {hidden} more"] if hidden > 0 else []
  return "; ".join([*problems[:most], *rest])
