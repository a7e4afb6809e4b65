"""A command of the command line: a class whose fields are its flags."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from ml_collections import ConfigDict

from time_jax.config.distill import RANGES, default_config
from time_jax.config.ranges import Range


@dataclasses.dataclass(frozen=True)
class AtLeast:
  """The smallest number that a flag may have."""

  lowest: float


Count = Annotated[int, AtLeast(1)]
CountOrZero = Annotated[int, AtLeast(0)]
_NOT_TYPED = ("config_fields", "changed_fields")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Command:
  """What every command is: a frozen dataclass with a method `run`.

  Each field is a flag, and --help shows its comment. A field without a default
  must be given:

    class Greet(Command):
      '''Greet somebody.'''

      name = "greet"
      example = "greet --whom=Aoife"
      whom: str  # Whom to greet.
      times: Count = 1  # How often.

  A field's type is str, bool, int, float, Path or a Literal, or a tuple of
  these, which are typed with commas between them; a flag whose type is a list
  is repeated for each element. The flag of a field `class_` is --class.

  The first line of the docstring is the command's line in the list of commands.

  Attributes:
    name: one or two words, such as "bench step".
    example: a command line, without `python -m time_jax`.
    argument: the flag that may be given without --NAME=. A flag that is a tuple
      takes all such arguments.
    once: whether process 0 does the work for all processes that a launcher
      started (see `parallel.run_once`), as for a command that writes a folder.
      Other commands run in each process.
  """

  name: ClassVar[str]
  example: ClassVar[str]
  argument: ClassVar[str] = ""
  once: ClassVar[bool] = False

  def __init_subclass__(cls) -> None:
    """Makes the subclass a dataclass."""
    dataclasses.dataclass(frozen=True, kw_only=True)(cls)

  def run(self) -> int:
    """Does the work and returns the exit code.

    Imports happen inside of it, so that --help and usage errors are fast.
    """
    raise NotImplementedError


class RecipeCommand(Command):
  """A command with a recipe, of which any field may be changed.

  Attributes:
    recipe: returns a config with all fields that `config` must have.
    ranges: the range of each numeric field, for --help.
    changed_fields: names of the fields that were typed, as "train.num_steps".
  """

  recipe: ClassVar[Callable[[], ConfigDict]] = staticmethod(default_config)
  ranges: ClassVar[Mapping[str, Range]] = RANGES
  # Recipe: a name that `recipes` lists, or a file, then [:NAME=VALUE,...]. Any
  # field: --config.FIELD=VALUE. A VALUE may have commas; before NAME= they are
  # written \, and a backslash before a comma is \\.
  config: ConfigDict
  changed_fields: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Flag:
  """A flag of a command.

  Attributes:
    field: name of the command's field.
    kind: type of the field, without None.
    default: the value where it is not given.
    required: whether it must be given.
  """

  field: str
  kind: Any
  default: Any
  required: bool


def flags_of(command: type[Command]) -> dict[str, Flag]:
  """Returns the flags of a command in the order of its fields.

  Args:
    command: the command.

  Returns:
    The flags by name, as they are typed without the dashes.
  """
  hints = typing.get_type_hints(command, include_extras=True)
  flags = {}
  for field in dataclasses.fields(typing.cast(Any, command)):
    if field.name in _NOT_TYPED:
      continue
    kind, *others = typing.get_args(hints[field.name]) or (hints[field.name],)
    optional = others == [type(None)]
    required = field.default is dataclasses.MISSING
    flags[field.name.rstrip("_")] = Flag(
      field=field.name,
      kind=kind if optional else hints[field.name],
      default=None if required else field.default,
      required=required,
    )
  return flags
