"""Recipes and sweep files: those that come with time_jax, and a user's own."""

import ast
import difflib
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any, Literal

from time_jax.core.errors import UserError, first_line
from time_jax.core.storage.paths import Path, list_files, local_path

Kind = Literal["recipe", "sweep"]
_PACKAGE = Path(__file__).parents[1]
_IN_WHEEL = (_PACKAGE / "recipes").is_dir()  # They lie beside it in a checkout.
SHIPPED = _PACKAGE / "recipes" if _IN_WHEEL else _PACKAGE.parent / "configs"
LAUNCHERS = (_PACKAGE if _IN_WHEEL else _PACKAGE.parent) / "launch"


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
  near = difflib.get_close_matches(Path(name).stem, known, 1)
  absolute = Path(name).expanduser().is_absolute()
  place = "" if absolute else f" in {Path.cwd()}"
  raise UserError(
    f"no {kind} {name!r}{place}; expected a file, or one of "
    f"{', '.join(known)}{f': did you mean {near[0]}?' if near else '.'}"
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
  except Exception as error:  # A recipe is a program, which may raise anything.
    is_read = not isinstance(error, OSError)
    fault = f"fails: {type(error).__name__}" if is_read else "cannot be read"
    raise UserError(
      f"the recipe of --config {fault}: {first_line(error)}"
    ) from error
