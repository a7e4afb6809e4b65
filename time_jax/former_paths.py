"""Paths of modules that recipes and sweep files import, as they were in 0.1.

Each former path still gives the names of its module, with one
DeprecationWarning that says where they are now.
"""

import importlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any, cast

FORMER = {
  "time_jax.corpora": "time_jax.catalog.corpora",
  "time_jax.errors": "time_jax.core.errors",
  "time_jax.evals.recipe": "time_jax.config.finetune",
  "time_jax.languages": "time_jax.catalog.languages",
  "time_jax.own_teacher": "time_jax.hf.own_teacher",
  "time_jax.recipe_arguments": "time_jax.config.recipe_arguments",
  "time_jax.teachers": "time_jax.catalog.teachers",
}


class _Finder:
  """Is asked last, so it never stands in the way of a module that exists.

  A base class of `importlib.abc` would cost a third of the time of --help.
  """

  def find_spec(
    self, fullname: str, path: Sequence[str] | None, target: Any = None
  ) -> importlib.machinery.ModuleSpec | None:
    if fullname not in FORMER:
      return None
    return importlib.machinery.ModuleSpec(fullname, cast(Any, self))

  def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
    """Leaves it to Python to make an empty module."""

  def exec_module(self, module: types.ModuleType) -> None:
    now = FORMER[module.__name__]
    warnings.warn(
      f"{module.__name__} is now {now}; the former path will be removed.",
      DeprecationWarning,
      stacklevel=2,
    )
    names = vars(importlib.import_module(now))
    vars(module).update({k: v for k, v in names.items() if k[:2] != "__"})


def register() -> None:
  """Makes the former paths importable."""
  sys.meta_path.append(_Finder())
