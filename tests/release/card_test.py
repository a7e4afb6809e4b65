"""What a card lacks; what it says is in pipeline_of_commands_test.py."""

import pytest

from time_jax.release import card


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("# Title", "the front matter"),
    ("---\na: [\n---\n", "the front matter cannot be read"),
    ("---\ntags: [a]\n---\n", "the front matter lacks library_name"),
    ("---\ntags: [a]\n---\n$name", "places that were not filled"),
  ],
)
def test_what_a_card_lacks(text, problem):
  assert any(problem in found for found in card.problems(text))
