"""Tables line up, and sizes have a unit that people read."""

import doctest

import pytest

from time_jax.core import display


def test_examples_of_the_docstrings():
  assert doctest.testmod(display).failed == 0


def test_the_last_mark_holds_for_further_columns():
  rows = [["a", "b", "c"], ["11", "22", "33"]]
  assert display.aligned_table(rows) == "a   b   c\n11  22  33"
  assert display.aligned_table(rows, "<>", " ") == "a   b  c\n11 22 33"
  assert display.markdown_table(rows).splitlines()[1] == "| --- | --: | --: |"
  assert display.markdown_table(rows, "<").splitlines()[1].count("--:") == 0


@pytest.mark.parametrize(
  ("count", "shown"),
  [(0, "0 B"), (1234, "1.23 kB"), (999.6, "1 kB"), (3.2e9, "3.20 GB")],
)
def test_byte_size(count, shown):
  assert display.byte_size(count) == shown
