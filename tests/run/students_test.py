"""Several students in one checkpoint."""

import pytest

from time_jax.run import students


def test_what_all_have_is_told_once():
  lines = {"a": ["x", "y"], "b": ["x"]}
  assert students.told(lines) == ["x", "a: y"]
  assert students.told({"student": ["x"]}) == ["x"]


@pytest.mark.parametrize(
  ("values", "joined"),
  [
    ({"student": {"params": 1, "rest": 2}}, {"params": 1, "rest": 2}),
    (
      {"a": {"params": 1}, "b": {"params": 2, "ema": 3}},
      {"a.params": 1, "b.params": 2, "b.ema": 3},
    ),
    ({"a": {"params": 1}}, {"a.params": 1}),  # The others have ended, say.
  ],
)
def test_join_and_split(values, joined):
  assert students.join(values) == joined
  assert students.split(joined, tuple(values)) == values
