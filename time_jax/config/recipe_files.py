"""Recipes and sweep files: those that come with time_jax, and a user's own."""

import ast
import difflib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any, Literal

from time_jax.core.errors import UserError, first_line, kind_and_reason
from time_jax.core.storage.paths import Path, list_files, local_path

Kind = Literal["recipe", "sweep"]
_PACKAGE = Path(__file__).parents[1]
_IN_WHEEL = (_PACKAGE / "recipes").is_dir()  # They lie beside it in a checkout.
SHIPPED = _PACKAGE / "recipes" if _IN_WHEEL else _PACKAGE.parent / "configs"
LAUNCHERS = (_PACKAGE if _IN_WHEEL else _PACKAGE.parent) / "launch"
_FUNCTIONS = {"recipe": "get_config", "sweep": "get_sweep"}
_USES = {
  "recipe": "give it as --config to `time_jax distill` or `time_jax finetune`",
  "sweep": "run it by `time_jax sweep`",
}


def shipped(kind: Kind) -> dict[str, Path]:
  """Returns the files that come with time_jax, by name."""
  return {
    path.stem: path
    for path in list_files(SHIPPED, "*.py")
    if path.stem.startswith("sweep_") == (kind == "sweep")
  }


def find(name: str, kind: Kind) -> Path:
  """Finds a recipe or a sweep file.

  Args:
    name: a file's path; or a name such as `time`, which is configs/time.py in
      the current folder, else the shipped file. `configs/time.py` is found from
      any folder, too.
    kind: what is wanted.

  Raises:
    UserError: there is no such file.
  """
  for path in (local_path(name), Path(f"configs/{name}.py")):
    if path.is_file():
      return path
  known = shipped(kind)
  stem = name.removeprefix("configs/").removesuffix(".py")
  if stem in known:
    return known[stem]
  if stem in shipped(_other(kind)):
    raise _wrong_kind(name, kind)
  near = difflib.get_close_matches(Path(name).stem, known, 1)
  absolute = Path(name).expanduser().is_absolute()
  place = "" if absolute else f" in {Path.cwd()}"
  raise UserError(
    f"no {kind} {name!r}{place}; expected a file, or one of "
    f"{', '.join(known)}{f': did you mean {near[0]}?' if near else '.'}"
  )


def _other(kind: Kind) -> Kind:
  return "sweep" if kind == "recipe" else "recipe"


def _wrong_kind(name: Path | str, kind: Kind) -> UserError:
  other = _other(kind)
  return UserError(
    f"{name} is a {other}, expected a {kind}; {_USES[other]}, or give another "
    "file."
  )


def summary(path: Path) -> str:
  """Returns the first line of a file's docstring; empty: it has none."""
  text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
  return text.partition("\n")[0]


def load_module(path: Path) -> types.ModuleType:
  """Executes a recipe or a sweep file, and passes on what it raises."""
  name = f"_recipe_{path.stem}"  # That of no other module, as `time` would be.
  loader = importlib.machinery.SourceFileLoader(name, str(path))
  spec = importlib.util.spec_from_loader(name, loader)
  assert spec
  # Dataclasses look for their module there.
  module = sys.modules[name] = importlib.util.module_from_spec(spec)
  loader.exec_module(module)
  return module


def load_function(path: Path, kind: Kind) -> Callable[..., Any]:
  """Executes a file, and returns its `get_config` or `get_sweep`.

  Args:
    path: the file.
    kind: what it is meant to be.

  Raises:
    UserError: it is of the other kind.
    AttributeError: it is neither; the file itself may raise anything, too.
  """
  module = load_module(path)
  name = _FUNCTIONS[kind]
  if not hasattr(module, name) and hasattr(module, _FUNCTIONS[_other(kind)]):
    raise _wrong_kind(path, kind)
  return getattr(module, name)


def load_config(spec: str) -> Any:
  """Returns what the `get_config` of a recipe returns.

  Args:
    spec: NAME or FILE, then [:ARGUMENTS], which `get_config` receives as text.

  Raises:
    UserError: there is no such recipe, or it fails.
  """
  name, *arguments = spec.split(":", 1)
  path = find(name, "recipe")
  try:
    return load_function(path, "recipe")(*arguments)
  except UserError:
    raise
  except OSError as error:
    raise UserError(
      f"the recipe of --config cannot be read: {first_line(error)}"
    ) from error
  # A recipe is a program, which may raise anything, and may end itself.
  except (Exception, SystemExit) as error:
    raise UserError(
      f"the recipe {path} fails: {kind_and_reason(error)}."
    ) from error
