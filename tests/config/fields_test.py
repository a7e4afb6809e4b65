"""Names of fields."""

from time_jax.config.fields import flatten, unknown


def test_flatten():
  assert list(flatten({"a": 1, "b": {"c": {"d": 2}, "e": {}}})) == [
    ("a", 1),
    ("b.c.d", 2),
  ]


def test_an_unknown_name_comes_with_what_may_be_meant():
  known = ["prepare", "distill"]
  assert unknown("command", "distil", known) == (
    "unknown command 'distil'; did you mean 'distill'? Known: prepare, distill."
  )
  assert unknown("command", "fly", known) == (
    "unknown command 'fly'; known: prepare, distill."
  )
