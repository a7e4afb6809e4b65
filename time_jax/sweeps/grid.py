"""A grid of configurations: its axes, and the commands that make a point.

A sweep is a Python file that says what there is to vary and, for a point of the
grid, which commands one would type:

  from time_jax.sweeps.grid import Sweep

  def get_sweep() -> Sweep:
    return Sweep(axes={"heads": (16, 32, 64)}, stages=stages, x="heads")

  def stages(folder, heads):
    run = f"{folder}/student"
    return [
      [
        *("distill", "--config=configs/time.py:lang=da", f"--workdir={run}"),
        f"--config.relations.num_heads={heads}",
      ],
      ["finetune", "ud", f"--config=configs/ud.py:model={run},...", ...],
    ]

Another axis is another entry of `axes` and another argument of `stages`.
"""

import contextlib
import dataclasses
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from time_jax.config import recipe_arguments, recipe_files
from time_jax.core.errors import UserError, kind_and_reason
from time_jax.core.storage.paths import local_path
from time_jax.report.results import COLUMNS

LATENCY, TOKENS = "latency", "tokens"
BENCH, DISTILL, START = "bench inference", "distill", "start"
TRAINING = (DISTILL, "prepare", START)  # They take the recipe of a student.


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What a sweep's file returns.

  Attributes:
    axes: name -> values; a point for every combination.
    stages: (folder of a point, **values of it) -> the commands that make it, in
      order: the words after `python -m time_jax`. Each must be such that it
      goes on, or does nothing, when it is started again.
    limit_ms: a point whose `bench inference` (which gets --json, and one model)
      takes longer in JAX, for its smallest batch, is skipped from there on.
    x: what scores are drawn over: "latency" of that; "tokens" of the text that
      `distill` read, 0 of a `start`; or an axis of numbers. Points for which it
      is not known are left out.
    together: points that are distilled in one run at most, where they may
      share a teacher and what it reads, see `joint`; 1: each alone.
    y: the score that is drawn, such as "LAS"; empty: the mean of those that all
      points have.
  """

  axes: Mapping[str, Sequence[Any]]
  stages: Callable[..., Sequence[Sequence[str]]]
  limit_ms: float | None = None
  x: str = LATENCY
  together: int = 8
  y: str = ""


def load(spec: str) -> Sweep:
  """Runs a sweep's file.

  Args:
    spec: FILE[:NAME=VALUE,...]; the text after the colon are arguments of its
      `get_sweep`.

  Raises:
    UserError: the file fails, or what it returns is no grid.
  """
  local_path(spec)
  name, _, text = spec.partition(":")
  path = recipe_files.find(name, "sweep")
  given = recipe_arguments.parse(text, name)
  with explaining(path):
    get_sweep = recipe_files.load_function(path, "sweep")
    _check_arguments(path, get_sweep, given)
    sweep = get_sweep(**given)
  if not isinstance(sweep, Sweep):
    kind = type(sweep).__name__
    raise UserError(f"{path}: get_sweep gives {kind}, expected a Sweep.")
  if problem := _problem(sweep):
    raise UserError(f"{path}: {problem}.")
  return sweep


def with_fields(sweep: Sweep, fields: Sequence[str]) -> Sweep:
  """Returns the sweep with fields that hold for training in all of its points.

  Args:
    sweep: the grid.
    fields: --config.FIELD=VALUE, added to each `distill`, `prepare` and
      `start`.
  """
  if not fields:
    return sweep

  def stages(folder: pathlib.Path, **values: Any) -> list[list[str]]:
    commands = [[*map(str, words)] for words in sweep.stages(folder, **values)]
    for words in commands:
      if not words or words[0] not in TRAINING:
        continue
      own = {word.partition("=")[0] for word in words}
      for field in fields:
        if (name := field.partition("=")[0]) in own:
          raise UserError(
            f"{name} is set by the sweep itself; leave it out, or change the "
            "sweep's file."
          )
      words += fields
    return commands

  return dataclasses.replace(sweep, stages=stages)


@contextlib.contextmanager
def explaining(place: pathlib.Path | str) -> Iterator[None]:
  """Turns what a part of a sweep's file raises into a UserError."""
  try:
    yield
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise UserError(f"{place} fails: {kind_and_reason(error)}.") from error


def as_name(value: Any) -> str:
  """Returns a value of an axis as a part of a folder's name."""
  return re.sub(r"[^\w.+-]+", "-", str(value))


def _check_arguments(
  path: pathlib.Path, get_sweep: Callable[..., Any], given: Mapping[str, str]
) -> None:
  """Raises UserError where a sweep needs other arguments than were given."""
  known = inspect.signature(get_sweep).parameters.values()
  missing = [
    one.name
    for one in known
    if one.default is one.empty
    and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    and not given.get(one.name)
  ]
  if missing:
    form = ",".join(f"{name}=VALUE" for name in missing)
    raise UserError(
      f"{path} needs {', '.join(missing)}: give {path}:{form}; the head of the "
      "file says what each is."
    )
  names = {one.name for one in known if one.kind != one.VAR_KEYWORD}
  unknown = [name for name in given if name not in names]
  if unknown and len(names) == len(known):  # It takes no **arguments.
    raise UserError(
      f"{path} has no argument {unknown[0]!r}; known: "
      f"{', '.join(sorted(names)) or 'none'}."
    )


def _problem(sweep: Sweep) -> str:
  """Returns what is wrong with a sweep; "" if nothing is."""
  if not sweep.axes:
    return "axes is empty, expected a name and values"
  for name, values in sweep.axes.items():
    if not name.isidentifier():
      return f"axis {name!r}, expected letters, digits and _"
    if not isinstance(values, Sequence) or isinstance(values, str):
      return f"axis {name} is {values!r}, expected a tuple of values"
    if not values or len({*map(as_name, values)}) < len(values):
      return f"axis {name} is {tuple(values)}, expected different values"
  numbers = sweep.axes.get(sweep.x, ())
  known = sweep.x in (LATENCY, TOKENS) or numbers
  if not known or not all(isinstance(n, int | float) for n in numbers):
    return f"x is {sweep.x!r}, expected latency, tokens or an axis of numbers"
  if sweep.y and sweep.y not in COLUMNS:
    return f"y is {sweep.y!r}, expected one of {', '.join(COLUMNS)}, or none"
  if type(sweep.together) is not int or sweep.together < 1:
    return f"together is {sweep.together!r}, expected a whole number from 1 on"
  return ""
