"""The tables of facts that ship with the package, as rows of text."""

import csv
import importlib.resources


def read_table(name: str) -> list[dict[str, str]]:
  """Returns the rows of a table in this folder, each as column -> text.

  Args:
    name: file name of the table: tab-separated, lines of comment start with #.
  """
  path = importlib.resources.files("time_jax.catalog").joinpath(name)
  lines = path.read_text(encoding="utf-8").splitlines()
  rows = (line for line in lines if not line.startswith("#"))
  return list(csv.DictReader(rows, delimiter="\t"))
