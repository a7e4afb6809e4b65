"""Several students in one checkpoint."""

import pytest

from time_jax.run import students


@pytest.mark.parametrize(
  ("values", "joined"),
  [
    ({"student": {"params": 1, "rest": 2}}, {"params": 1, "rest": 2}),
    (
      {"a": {"params": 1}, "b": {"params": 2, "ema": 3}},
      {"a.params": 1, "b.params": 2, "b.ema": 3},
    ),
  ],
)
def test_join_and_split(values, joined):
  assert students.join(values) == joined
  assert students.split(joined, tuple(values)) == values
