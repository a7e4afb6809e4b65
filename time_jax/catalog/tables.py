"""Reads the tables of facts that ship with the package."""

import csv
import importlib.resources


def read_table(
  name: str, package: str = "time_jax.catalog"
) -> list[dict[str, str]]:
  """Returns the rows of a table, each as column -> text.

  Args:
    name: name of a tab-separated file, in which lines of comment start with #.
    package: the package that the file lies in.
  """
  path = importlib.resources.files(package).joinpath(name)
  lines = path.read_text(encoding="utf-8").splitlines()
  rows = (line for line in lines if not line.startswith("#"))
  return list(csv.DictReader(rows, delimiter="\t"))
