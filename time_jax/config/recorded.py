"""Configs that runs have recorded: completed, and compared with others."""

from collections.abc import Iterator
from typing import Any

from time_jax.config.distill import default_config
from time_jax.config.fields import flatten

# What may differ between a run and its resumption: where and how fast it
# runs, how often it writes. Everything else shapes the result. A name that ends
# in a dot stands for all in a section.
HARMLESS = (
  "checkpoint.",
  "data.folder",
  "data.max_bad_records",
  "data.prefetch",
  "eval.",
  "log.",
  "mesh.",
  "hidden.projection",  # its hash is compared instead
  "teacher.allow_pickle",
  "teacher.cache",  # but not teacher.cache_dtype, to which it rounds
  "teacher.cache_gb",
  "train.max_skipped",
  "train.watchdog",
  "teacher.path",  # the teacher's fingerprint is compared instead
)
# Outermost sections that runs of earlier versions did not have.
_LATER = ("hidden",)


def completed(
  tree: dict[str, Any], known: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Adds the fields that did not exist yet when a config was recorded.

  Each gets its default, with which a run gives the result that it gave before
  the field existed.

  Args:
    tree: the config, as a dict.
    known: all fields with their defaults; None: those of `default_config`.
  """
  known = default_config().to_dict() if known is None else known
  sections = {
    name: completed(tree.get(name, {}), section)
    for name, section in known.items()
    if isinstance(section, dict)
  }
  return known | tree | sections


def lacking(tree: dict[str, Any]) -> list[str]:
  """Returns why a dict cannot be the config of a run: fields that it lacks.

  These are the outermost fields, and sections at any depth in whose place there
  is a value of another kind. A field inside of a section may be absent, and so
  may a section of `_LATER`, or one that is empty by default: it may have been
  added after the config was recorded.

  Args:
    tree: the config, as a dict.
  """
  known = default_config().to_dict()
  return [
    *(
      name
      for name in known
      if name not in tree and name not in _LATER and known[name] != {}
    ),
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


def differences(
  before: dict[str, Any], now: dict[str, Any], *, harmless: bool = False
) -> list[str]:
  """Returns a line for each field of two configs that differs.

  Args:
    before: the recorded config.
    now: that of this start.
    harmless: whether to compare the fields that do not change the result of a
      run, instead of those that do.
  """
  old, new = dict(flatten(before)), dict(flatten(now))
  lines = []
  for name in sorted(old | new):
    then, today = (_shown(fields, name) for fields in (old, new))
    if then != today and _is_harmless(name) == harmless:
      lines.append(f"{name}: {then} then, {today} now")
  return lines


def _is_harmless(name: str) -> bool:
  return name in HARMLESS or f"{name.partition('.')[0]}." in HARMLESS


def _shown(fields: dict[str, Any], name: str) -> str:
  value = fields.get(name, "(absent)")
  return repr(list(value) if isinstance(value, tuple) else value)
