"""Every round measures all, and ratios are of one round."""

from time_jax.bench.common import rounds


def test_rounds_turn_round():
  order = []

  def measure(name):
    order.append(name)
    return len(order)

  found = rounds.in_turns("abc", 3, measure)
  assert "".join(order) == "abccbaabc"
  assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_ratio_is_the_median_of_those_of_the_rounds():
  assert rounds.ratio([2, 40, 3], [1, 10, 1]) == 3
