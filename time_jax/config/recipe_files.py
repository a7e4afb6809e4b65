"""Recipes and sweep files: those that come with time_jax, and a user's own."""

import ast
import difflib
import importlib.machinery
import importlib.util
import pathlib
import sys
import types
from typing import Any, Literal

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path

Kind = Literal["recipe", "sweep"]
_PACKAGE = pathlib.Path(__file__).parents[1]
_IN_WHEEL = (_PACKAGE / "recipes").is_dir()  # They lie beside it in a checkout.
SHIPPED = _PACKAGE / "recipes" if _IN_WHEEL else _PACKAGE.parent / "configs"
LAUNCHERS = (_PACKAGE if _IN_WHEEL else _PACKAGE.parent) / "launch"


def shipped(kind: Kind) -> dict[str, pathlib.Path]:
  """Returns the files that come with time_jax, by name."""
  return {
    path.stem: path
    for path in sorted(SHIPPED.glob("*.py"))
    if path.stem.startswith("sweep_") == (kind == "sweep")
  }


def find(name: str, kind: Kind) -> pathlib.Path:
  """Finds a recipe or a sweep file.

  Args:
    name: a file's path; or a name such as `time`, which is configs/time.py in
      the current folder, else the shipped file. `configs/time.py` is found from
      any folder, too.
    kind: what is wanted.

  Raises:
    UserError: there is no such file.
  """
  for path in (local_path(name), pathlib.Path(f"configs/{name}.py")):
    if path.is_file():
      return path
  known = shipped(kind)
  stem = name.removeprefix("configs/").removesuffix(".py")
  if stem in known:
    return known[stem]
  near = difflib.get_close_matches(pathlib.Path(name).stem, known, 1)
  absolute = pathlib.Path(name).expanduser().is_absolute()
  place = "" if absolute else f" in {pathlib.Path.cwd()}"
  raise UserError(
    f"no {kind} {name!r}{place}; expected a file, or one of "
    f"{', '.join(known)}{f': did you mean {near[0]}?' if near else '.'}"
  )


def summary(path: pathlib.Path) -> str:
  """Returns the first line of a file's docstring; empty: it has none."""
  text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
  return text.partition("\n")[0]


def load_module(path: pathlib.Path) -> types.ModuleType:
  """Executes a recipe or a sweep file, whatever it raises."""
  name = f"_recipe_{path.stem}"  # That of no other module, as `time` would be.
  loader = importlib.machinery.SourceFileLoader(name, str(path))
  spec = importlib.util.spec_from_loader(name, loader)
  assert spec
  # Dataclasses look for their module there.
  module = sys.modules[name] = importlib.util.module_from_spec(spec)
  loader.exec_module(module)
  return module


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
    return load_module(path).get_config(*arguments)
  except UserError:
    raise
  except OSError as error:
    line = str(error).strip().rstrip(".")
    raise UserError(
      f"the recipe of --config cannot be read: {line}."
    ) from error
  except Exception as error:  # A recipe is a program, which may raise anything.
    line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    raise UserError(
      f"the recipe of --config fails: {type(error).__name__}: {line}."
    ) from error
