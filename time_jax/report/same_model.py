"""Which results are of one model, where versions knew it by different hashes.

Earlier versions took the record of a run and the step of a checkpoint for the
model. Newer files say that hash as well, where only one model can have had it.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.report.results import Result, Speed

# Of the empty record at step 0, which every imported model used to have.
_OF_ALL_IMPORTED = hashlib.sha256(json.dumps([{}, 0]).encode()).hexdigest()


class _Known(Protocol):
  """What says which model it is of."""

  @property
  def place(self) -> pathlib.Path:
    """Where it was found."""

  @property
  def fingerprint(self) -> str:
    """Which model it is of."""

  @property
  def before(self) -> str:
    """By which earlier versions knew it."""


_Some = TypeVar("_Some", Result, Speed)


def reconcile(
  results: Sequence[Result], speeds: Sequence[Speed]
) -> tuple[list[Result], list[Speed]]:
  """Gives what is of one model one fingerprint, and says so in a line.

  Args:
    results: of `finetune`.
    speeds: of `bench inference`.

  Raises:
    UserError: what some file says could be of several models.
  """
  everything: list[_Known] = [*results, *speeds]
  _check_imported(everything)
  now: dict[str, str] = {}
  said: dict[str, _Known] = {}
  for one in filter(lambda one: one.before, everything):
    first = said.setdefault(one.before, one)
    early = [o for o in everything if o.fingerprint == one.before]
    if early and first.fingerprint != one.fingerprint:
      raise _unclear(one.before, [*early, first, one])
    now[one.before] = one.fingerprint
  if early := [one for one in everything if one.fingerprint in now]:
    note(
      f"{_places(early)} know(s) a model by the hash of an earlier version, "
      "which another result says is of the same model; they are joined."
    )
  return _renamed(results, now), _renamed(speeds, now)


def _renamed(some: Iterable[_Some], now: dict[str, str]) -> list[_Some]:
  prints = ((one, now.get(one.fingerprint)) for one in some)
  return [
    dataclasses.replace(one, fingerprint=name) if name else one
    for one, name in prints
  ]


def _check_imported(everything: Sequence[_Known]) -> None:
  same = [one for one in everything if one.fingerprint == _OF_ALL_IMPORTED]
  if len({one.place for one in same}) > 1:
    raise _unclear(_OF_ALL_IMPORTED, same)


def _unclear(before: str, some: Sequence[_Known]) -> UserError:
  return UserError(
    f"{_places(some)}: an earlier version knew a model by the hash "
    f"{before[:12]}, which several models had, so it cannot be told what is of "
    "one model. Fine-tune or measure again with this version, into a new "
    "--workdir or --out, or give only what is of one model."
  )


def _places(some: Sequence[_Known]) -> str:
  places = dict.fromkeys(str(one.place) for one in some)
  more = f" and {len(places) - 3} more" if len(places) > 3 else ""
  return ", ".join(itertools.islice(places, 3)) + more
