"""Names of fields, and what is said of a name that does not exist."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any


def flatten(
  tree: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields the leaves of nested dicts: {"a": {"b": 1}} -> ("a.b", 1)."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
  """Returns the message for a name that does not exist.

  Args:
    kind: what it was taken for, such as "command".
    given: the name.
    known: all names.
  """
  names = list(known)
  near = difflib.get_close_matches(given, names, 1, cutoff=0.75)
  guess = f"did you mean {near[0]!r}? Known" if near else "known"
  return f"unknown {kind} {given!r}; {guess}: {', '.join(names)}."
