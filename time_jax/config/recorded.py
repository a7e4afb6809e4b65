"""Configs that runs have recorded: completed, and compared with others."""

from collections.abc import Iterator
from typing import Any

from time_jax.config.distill import default_config, flatten

# What may differ between a run and its resumption: where and how fast it
# runs, how often it writes. Everything else shapes the result.
HARMLESS = (
  "checkpoint.",
  "data.folder",
  "data.max_bad_records",
  "data.prefetch",
  "eval.",
  "log.",
  "mesh.",
  "teacher.allow_pickle",
  "train.max_skipped",
  "train.watchdog",
  "teacher.path",  # the teacher's fingerprint is compared instead
)


def completed(
  tree: dict[str, Any], known: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Adds the fields that came after a config was recorded.

  Each gets its default, with which a run is what it was without the field.

  Args:
    tree: the config, as a dict.
    known: all fields; by default those of `default_config`.
  """
  known = default_config().to_dict() if known is None else known
  sections = {
    name: completed(tree.get(name, {}), section)
    for name, section in known.items()
    if isinstance(section, dict)
  }
  return known | tree | sections


def lacking(tree: dict[str, Any]) -> list[str]:
  """Returns the names of fields without which a dict is no config of a run.

  Those are the outermost ones, and every section, at any depth, in the place
  of which another value stands. Single fields may have come later.

  Args:
    tree: the config, as a dict.
  """
  known = default_config().to_dict()
  return [
    *(name for name in known if name not in tree),
    *_replaced(tree, known),
  ]


def _replaced(tree: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
  """Yields the names of known sections that are no sections in a tree."""
  for name, section in known.items():
    if isinstance(section, dict) and name in tree:
      if isinstance(tree[name], dict):
        yield from _replaced(tree[name], section)
      else:
        yield name


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
  """Returns lines about fields that differ and would change a run's result."""
  changed = _changes(before, now)
  return [line for name, line in changed if not name.startswith(HARMLESS)]


def harmless_differences(
  before: dict[str, Any], now: dict[str, Any]
) -> list[str]:
  """Returns lines about fields that differ and change no run's result."""
  changed = _changes(before, now)
  return [line for name, line in changed if name.startswith(HARMLESS)]


def _changes(
  before: dict[str, Any], now: dict[str, Any]
) -> Iterator[tuple[str, str]]:
  """Yields the name of each field that differs, and a line about it."""
  old, new = dict(flatten(before)), dict(flatten(now))
  for name in sorted(old | new):
    then, today = (_shown(fields, name) for fields in (old, new))
    if then != today:
      yield name, f"{name}: {then} then, {today} now"


def _shown(fields: dict[str, Any], name: str) -> str:
  value = fields.get(name, "(absent)")
  return repr(list(value) if isinstance(value, tuple) else value)
