"""The points of a grid, whose commands are checked before any of them runs."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.config import command_line, warmup
from time_jax.config.command import Command, RecipeCommand
from time_jax.config.distill import check_config
from time_jax.config.finetune import check_recipe
from time_jax.config.students import effective
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path
from time_jax.evals.common import split_files
from time_jax.run import assembly
from time_jax.sweeps.grid import BENCH, DISTILL, Sweep, as_name, explaining

_SHOWN = 5  # different problems in a message


@dataclasses.dataclass(frozen=True)
class Stage:
  """A command of a point.

  Attributes:
    name: the command's name, of one or two words.
    words: all words after `python -m time_jax`.
    values: the command with its flags.
  """

  name: str
  words: tuple[str, ...]
  values: Any


@dataclasses.dataclass(frozen=True)
class Point:
  """A point of the grid.

  Attributes:
    name: its values, as its folder is called.
    values: axis -> value.
    folder: holds all files of the point.
    stages: the commands that make it, in order.
  """

  name: str
  values: Mapping[str, Any]
  folder: pathlib.Path
  stages: tuple[Stage, ...]


def make_points(
  sweep: Sweep, workdir: pathlib.Path, commands: Mapping[str, type[Command]]
) -> list[Point]:
  """Returns the points of the grid, each with commands that have been checked.

  Nothing is run, but recipes are made, and their values compared with each
  other and with the teacher, so that no point ends for this after days.

  Args:
    sweep: the grid.
    workdir: gets a folder for every point.
    commands: all commands there are, by name.

  Raises:
    UserError: names every point that cannot be run, and why.
  """
  made: list[Point] = []
  problems: dict[str, list[str]] = {}
  grid = [*itertools.product(*sweep.axes.values())]
  for combination in grid:
    values = dict(zip(sweep.axes, combination, strict=True))
    name = "_".join(f"{axis}={as_name(x)}" for axis, x in values.items())
    try:
      stages = _stages(sweep, workdir / name, values, commands)
      made.append(Point(name, values, workdir / name, stages))
    except UserError as error:
      problems.setdefault(str(error), []).append(name)
  if problems:
    shown = [
      f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {problem}"
      for problem, names in list(problems.items())[:_SHOWN]
    ]
    raise UserError(
      f"{len(grid) - len(made)} of {len(grid)} points cannot be run, so none "
      f"was. {' '.join(shown)}"
    )
  return made


def _stages(
  sweep: Sweep,
  folder: pathlib.Path,
  values: Mapping[str, Any],
  commands: Mapping[str, type[Command]],
) -> tuple[Stage, ...]:
  with explaining("stages"):
    lines = [[*map(str, words)] for words in sweep.stages(folder, **values)]
  stages = tuple(_stage(words, folder.parent, commands) for words in lines)
  if not stages:
    raise UserError("stages gives no command.")
  measured = [stage.values for stage in stages if stage.name == BENCH]
  if sweep.limit_ms is not None and not measured:
    raise UserError(f"limit_ms needs a stage {BENCH!r}.")
  for bench in measured:
    if not bench.json or len(bench.models) != 1:
      raise UserError(f"{BENCH} needs --json here, and one model in --models.")
    if "jax" not in bench.engines:
      raise UserError(f"{BENCH} needs jax among its --engines here.")
  return stages


def _stage(
  words: Sequence[str],
  workdir: pathlib.Path,
  commands: Mapping[str, type[Command]],
) -> Stage:
  command, rest = command_line.split(words, commands)
  name = command.name
  values: Any = command_line.parse(command, rest)
  if name.startswith("finetune"):
    check_recipe(values.config)
    _check_files(values.config, workdir)
  elif isinstance(values, RecipeCommand):
    check_config(values.config)
    # A teacher that an earlier stage makes, as `trim` does, is not there yet.
    if not pathlib.Path(values.config.teacher.path).is_relative_to(workdir):
      assembly.check_students(effective(values.config))
  if name == DISTILL and warmup.FIELD in values.changed_fields:
    # A point that an earlier version began, or finished, keeps its schedule.
    warmup.fit(values.config.train, values.workdir, values.changed_fields)
  return Stage(name, tuple(words), values)


def _check_files(config: Any, workdir: pathlib.Path) -> None:
  """Raises UserError where a task lacks files that no stage can make."""
  d = config.data
  for split in ("train", "dev", "test"):
    if d.source and pathlib.Path(d.source).is_relative_to(workdir):
      continue
    name = split_files.resolve(
      config.task, config.lang, split, d[split], d.source
    )
    if not name or name.startswith("hf:"):
      continue
    path = local_path(name)
    if not path.is_relative_to(workdir) and not path.is_file():
      raise UserError(
        f"data.{split}={name}: no such file; expected one, or "
        "hf:OWNER/NAME/PATTERN."
      )
