"""Which layers of its teacher a student begins with."""

import pytest

from time_jax.core.errors import UserError
from time_jax.starts.layer_choice import is_teacher, layers_of

SPACED = ("teacher", "teacher:spaced", "teacher:")


@pytest.mark.parametrize("highest", range(1, 25))
@pytest.mark.parametrize("init_from", SPACED)
def test_layers_are_different_ones_up_to_the_last(init_from, highest):
  for wanted in range(1, highest + 1):
    chosen = layers_of(init_from, wanted, highest)
    assert len({*chosen}) == wanted and chosen[-1] == highest
    assert min(chosen) >= 1 and chosen == sorted(chosen)


@pytest.mark.parametrize(
  ("init_from", "wanted", "highest", "layers"),
  [
    ("teacher", 6, 12, [2, 4, 6, 8, 10, 12]),
    ("teacher:spaced", 4, 12, [3, 6, 9, 12]),
    # Layers of runs that began earlier: 7 * (29 / 14) would round to 15.
    ("teacher", 14, 29, [2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29]),
    ("teacher:lower", 6, 12, [1, 2, 3, 4, 5, 6]),
    ("teacher:lower", 3, 3, [1, 2, 3]),
    ("teacher:1,4,9", 3, 12, [1, 4, 9]),
    ("teacher:9, 1", 2, 3, [9, 1]),  # The caller knows how many there are.
  ],
)
def test_layers(init_from, wanted, highest, layers):
  assert layers_of(init_from, wanted, highest) == layers


@pytest.mark.parametrize(
  ("init_from", "message"),
  [
    ("teacher:lower", "student.num_layers=3 is more than the 2 layers of the"),
    ("teacher:spaced", "or a list .* as student.init_from=teacher:1,2,2\\.$"),
    ("teacher:upper", "'teacher:upper': expected teacher:lower, teacher:sp"),
    ("teacher:lower,1", "or layer numbers, such as teacher:1,4,9\\.$"),
    ("teacher:1,,2", "expected teacher:lower"),
  ],
)
def test_refusals(init_from, message):
  with pytest.raises(UserError, match=message):
    layers_of(init_from, 3, 2)


def test_what_is_the_teacher():
  assert all(map(is_teacher, (*SPACED, "teacher:lower", "teacher:1")))
  assert not any(map(is_teacher, ("", "teachers/e5", "runs/teacher", "3")))
