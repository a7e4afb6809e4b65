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

import dataclasses
import inspect
import itertools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from time_jax.config import (
  command_line,
  recipe_arguments,
  recipe_files,
  warmup,
)
from time_jax.config.command import Command, RecipeCommand
from time_jax.config.distill import check_config
from time_jax.config.finetune import check_recipe
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path
from time_jax.evals.common import split_files
from time_jax.run import assembly

LATENCY, TOKENS = "latency", "tokens"
BENCH, DISTILL = "bench inference", "distill"
_SHOWN = 5  # problems of points in a message


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What a sweep's file returns.

  Attributes:
    axes: name -> values; a point for every combination.
    stages: (folder of a point, **values of it) -> the commands that make it, in
      order: the words behind `python -m time_jax`. Each must be such that it
      goes on, or does nothing, when it is started again.
    limit_ms: a point whose `bench inference` (which gets --json, and one model)
      takes longer in JAX, for its smallest batch, is skipped from there on.
    x: what scores are drawn over: "latency" of that; "tokens" of the text that
      `distill` read; or an axis of numbers.
  """

  axes: Mapping[str, Sequence[Any]]
  stages: Callable[..., Sequence[Sequence[str]]]
  limit_ms: float | None = None
  x: str = LATENCY


@dataclasses.dataclass(frozen=True)
class Stage:
  """A command of a point.

  Attributes:
    name: of the command.
    words: behind `python -m time_jax`, the name among them.
    values: its flags.
  """

  name: str
  words: tuple[str, ...]
  values: Any


@dataclasses.dataclass(frozen=True)
class Point:
  """A point of the grid.

  Attributes:
    name: its values, as a folder can be called.
    values: by axis.
    folder: all that is of it.
    stages: what makes it.
  """

  name: str
  values: Mapping[str, Any]
  folder: pathlib.Path
  stages: tuple[Stage, ...]


def load(spec: str) -> Sweep:
  """Runs a sweep's file.

  Args:
    spec: FILE[:NAME=VALUE,...]; what is behind the colon are arguments of its
      `get_sweep`, as texts.

  Raises:
    UserError: the file fails, or what it returns is no grid.
  """
  local_path(spec)
  name, _, text = spec.partition(":")
  path = recipe_files.find(name, "sweep")
  given = recipe_arguments.parse(text, name)
  try:
    module = recipe_files.load_module(path)
    _check_arguments(path, module.get_sweep, given)
    sweep = module.get_sweep(**given)
  except UserError:
    raise
  except Exception as error:
    raise _failed(path, error) from error
  if not isinstance(sweep, Sweep):
    kind = type(sweep).__name__
    raise UserError(f"{path}: get_sweep gives {kind}, expected a Sweep.")
  if problem := _problem(sweep):
    raise UserError(f"{path}: {problem}.")
  return sweep


def _check_arguments(
  path: pathlib.Path, get_sweep: Callable[..., Any], given: Mapping[str, str]
) -> None:
  """UserError for arguments that a sweep needs and has not got, or has not."""
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
  takes_all = any(one.kind == one.VAR_KEYWORD for one in known)
  unknown = [name for name in given if name not in names]
  if unknown and not takes_all:
    raise UserError(
      f"{path} has no argument {unknown[0]!r}; known: "
      f"{', '.join(sorted(names)) or 'none'}."
    )


def _failed(path: pathlib.Path | str, error: Exception) -> UserError:
  reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
  return UserError(f"{path} fails: {reason}.")


def _problem(sweep: Sweep) -> str:
  """What is wrong with its axes; empty: nothing."""
  if not sweep.axes:
    return "axes is empty, expected a name and values"
  for name, values in sweep.axes.items():
    if not name.isidentifier():
      return f"axis {name!r}, expected letters, digits and _"
    if not isinstance(values, Sequence) or isinstance(values, str):
      return f"axis {name} is {values!r}, expected a tuple of values"
    if not values or len({*map(_plain, values)}) < len(values):
      return f"axis {name} is {tuple(values)}, expected different values"
  numbers = sweep.axes.get(sweep.x, ())
  known = sweep.x in (LATENCY, TOKENS) or numbers
  if not known or not all(isinstance(n, int | float) for n in numbers):
    return f"x is {sweep.x!r}, expected latency, tokens or an axis of numbers"
  return ""


def _plain(value: Any) -> str:
  return re.sub(r"[^\w.+-]+", "-", str(value))


def points(
  sweep: Sweep, workdir: pathlib.Path, commands: Mapping[str, type[Command]]
) -> list[Point]:
  """The points of the grid, each with commands that have been checked.

  Nothing is run, but recipes are made, and their values compared with each
  other and with the teacher, so that no point ends for this after days.

  Args:
    sweep: the grid.
    workdir: gets a folder for every point.
    commands: all there are.

  Raises:
    UserError: says of every point that cannot be why.
  """
  found: list[Point] = []
  problems: dict[str, list[str]] = {}
  grid = [
    dict(zip(sweep.axes, values, strict=True))
    for values in itertools.product(*sweep.axes.values())
  ]
  for values in grid:
    name = "_".join(f"{axis}={_plain(value)}" for axis, value in values.items())
    try:
      found.append(_point(name, values, sweep, workdir, commands))
    except UserError as error:
      problems.setdefault(str(error), []).append(name)
  if problems:
    shown = [
      f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {problem}"
      for problem, names in list(problems.items())[:_SHOWN]
    ]
    raise UserError(
      f"{len(grid) - len(found)} of {len(grid)} points cannot be run, so none "
      f"was. {' '.join(shown)}"
    )
  return found


def with_fields(sweep: Sweep, fields: Sequence[str]) -> Sweep:
  """The sweep with fields that hold for training in all of its points.

  Args:
    sweep: the grid.
    fields: --config.FIELD=VALUE, behind each `distill` and `prepare`.
  """
  if not fields:
    return sweep

  def stages(folder: pathlib.Path, **values: Any) -> list[list[str]]:
    lines = [[*map(str, words)] for words in sweep.stages(folder, **values)]
    taking = [words for words in lines if words[:1] in ([DISTILL], ["prepare"])]
    if not taking:
      raise UserError(f"no stage is {DISTILL!r}, which would take {fields[0]}.")
    for words in taking:
      own = {word.partition("=")[0] for word in words}
      for field in fields:
        if (name := field.partition("=")[0]) in own:
          raise UserError(
            f"{name} is set by the sweep itself; leave it out, or change the "
            "sweep's file."
          )
      words += fields
    return lines

  return dataclasses.replace(sweep, stages=stages)


def _point(
  name: str,
  values: Mapping[str, Any],
  sweep: Sweep,
  workdir: pathlib.Path,
  commands: Mapping[str, type[Command]],
) -> Point:
  folder = workdir / name
  try:
    lines = [[*map(str, words)] for words in sweep.stages(folder, **values)]
  except UserError:
    raise
  except Exception as error:
    raise _failed("stages", error) from error
  stages = tuple(_stage(words, workdir, commands) for words in lines)
  if not stages:
    raise UserError("stages gives no command.")
  measured = [stage.values for stage in stages if stage.name == BENCH]
  if sweep.limit_ms is not None and not measured:
    raise UserError(f"limit_ms needs a stage {BENCH!r}.")
  for of_bench in measured:
    if not of_bench.json or len(of_bench.models) != 1:
      raise UserError(f"{BENCH} needs --json here, and one model in --models.")
    if "jax" not in of_bench.engines:
      raise UserError(f"{BENCH} needs jax among its --engines here.")
  return Point(name, values, folder, stages)


def _stage(
  words: Sequence[str],
  workdir: pathlib.Path,
  commands: Mapping[str, type[Command]],
) -> Stage:
  command, rest = command_line.split(words, commands)
  name = command.name
  values: Any = command_line.parse(command, rest)
  if isinstance(values, RecipeCommand):
    _check_recipe(name, values.config, workdir)
  if name == DISTILL and warmup.FIELD in values.changed_fields:
    # A point that an earlier version began, or finished, keeps its schedule.
    warmup.fit(values.config.train, values.workdir, values.changed_fields)
  return Stage(name, tuple(words), values)


def _check_data(config: Any, workdir: pathlib.Path) -> None:
  """UserError where a task lacks files that no stage can be to make."""
  d = config.data
  for split in ("train", "dev", "test"):
    if d.source and pathlib.Path(d.source).is_relative_to(workdir):
      continue
    name = split_files.resolve(
      config.task, config.lang, split, d[split], d.source
    )
    if name.startswith("hf:"):
      continue
    path = local_path(name)
    made = path.is_relative_to(workdir)
    if name and not made and not path.is_file():
      raise UserError(
        f"data.{split}={name}: no such file; expected one, or "
        "hf:OWNER/NAME/PATTERN."
      )


def _check_recipe(name: str, config: Any, workdir: pathlib.Path) -> None:
  if name.startswith("finetune"):
    check_recipe(config)
    return _check_data(config, workdir)
  check_config(config)
  # A teacher that an earlier stage makes, as `trim` does, is not there yet.
  if not pathlib.Path(config.teacher.path).is_relative_to(workdir):
    assembly.teacher_config(config)
