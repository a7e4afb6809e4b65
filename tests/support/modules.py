"""The modules of the package, and what they import of each other."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "time_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
  """Returns `relations.dense` for time_jax/relations/dense.py."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}


def imported(path):
  """Returns the project's modules that a file names, also inside functions."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        name = f"{node.module}.{alias.name}"
        inside = name.removeprefix("time_jax.") in MODULES
        names.add(name if inside else node.module)
    elif isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      names.add(node.value)  # importlib.import_module("time_jax...")
  inside = {n.removeprefix("time_jax.") for n in names if "time_jax." in n}
  return inside & set(MODULES) - {module_name(path)}
