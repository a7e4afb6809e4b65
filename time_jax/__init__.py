"""time_jax: distil a big text encoder into a tiny monolingual one, in JAX.

The names below are loaded when they are first used, so that importing time_jax
takes no time and changes no setting of JAX. `time_jax.api` documents them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from time_jax import former_paths

if TYPE_CHECKING:
  from time_jax.api import (
    Batch,
    distill,
    embed,
    export,
    finetune,
    load_student,
    load_teacher,
    make_batch,
    make_student,
    make_train_step,
    predict,
    read_metrics,
    relation_loss,
  )

__all__ = [
  "Batch",
  "__version__",
  "distill",
  "embed",
  "export",
  "finetune",
  "load_student",
  "load_teacher",
  "make_batch",
  "make_student",
  "make_train_step",
  "predict",
  "read_metrics",
  "relation_loss",
]

former_paths.register()


def __getattr__(name: str) -> Any:
  if name == "__version__":
    # Not above: it takes a while to import, and few commands need it.
    from importlib import metadata

    try:
      return metadata.version("time-jax")
    except metadata.PackageNotFoundError:
      return metadata.version("time-jax-serve")
  if name in __all__:
    try:
      return getattr(importlib.import_module("time_jax.api"), name)
    except ModuleNotFoundError as error:
      if error.name != "time_jax.api":
        raise
      raise ImportError(
        f"time_jax.{name} is in the distribution time-jax, and what is "
        "installed is time-jax-serve, which has time_jax.serve alone."
      ) from None
  raise AttributeError(f"module 'time_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted(__all__)
