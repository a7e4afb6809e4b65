"""What a command is, and the flags and conversions that several share."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from time_jax.config.distill import RANGES, default_config
from time_jax.config.ranges import Range
from time_jax.core.storage.paths import local_path

Define = Callable[[flags.FlagValues, Sequence[str]], None]


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    summary: one line for the list of commands.
    example: what a user would type behind `python -m time_jax`.
    define: functions that define its flags.
    required: names of the flags that must be given.
    run: (flag values) -> exit code; imports what it needs itself, so that
      help and usage errors appear at once.
    argument: the flag that a word without dashes sets; empty: no such word.
      A flag that is a list takes all such words.
    recipe: gives all fields that its --config must have.
    once: whether process 0 does it for all that a launcher started, see
      `outcome`: what writes one folder. All others run in each process, joined
      or, where they only read and print, by themselves.
    ranges: of the fields of its --config that are numbers.
  """

  summary: str
  example: str
  define: Sequence[Define]
  required: Sequence[str]
  run: Callable[[Any], int]
  argument: str = ""
  recipe: Callable[[], ConfigDict] = default_config
  once: bool = False
  ranges: Mapping[str, Range] = dataclasses.field(
    default_factory=lambda: RANGES
  )


def config_flag(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Defines --config."""
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Recipe, FILE[:NAME=VALUE,...]. Any field: --config.FIELD=VALUE. A VALUE "
    "may have commas; before NAME= they are written \\, and a backslash before "
    "a comma is \\\\.",
    lock_config=True,
    flag_values=values,
    sys_argv=["time_jax", *argv],
  )


def typed_fields(args: Any) -> frozenset[str]:
  """Names of the fields that were given with a command, as --config.FIELD."""
  return frozenset(config_flags.get_override_values(args["config"]))


def free_fields(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Defines a flag for each --config.FIELD of a command without --config.

  What they may be is known to the recipes that they are for.
  """
  for word in argv:
    found = re.fullmatch(r"--?(?:no)?(config\.[\w.]+)(=.*)?", word, re.DOTALL)
    if found and found[1] not in values:
      define = flags.DEFINE_string if found[2] else flags.DEFINE_boolean
      define(found[1], None, "", flag_values=values)


def given_fields(values: flags.FlagValues) -> list[str]:
  """The --config.FIELD=VALUE that `free_fields` let pass, in one order."""
  names = sorted(name for name in values if name.startswith("config."))
  return [f"--{name}={values[name].value}" for name in names]


def workdir_flag(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Defines --workdir."""
  del argv
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)


def json_flag(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Defines --json."""
  del argv
  flags.DEFINE_string(
    "json", None, "File to write the numbers to.", flag_values=values
  )


def path(text: str) -> pathlib.Path:
  """A path as a user types it; UserError for an address such as gs://..."""
  return local_path(text)
