"""Imports the packages of the extra `eval`, which only evaluations need."""

import importlib
from typing import Any

from time_jax.core.errors import UserError

UDTOOLS = "udtools.udeval"
SEQEVAL = "seqeval.metrics"
SEQEVAL_TAGS = "seqeval.metrics.sequence_labeling"


def load_package(module: str) -> Any:
  """Imports a module of an optional package.

  Raises:
    UserError: its package is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError:
    raise UserError(
      f"{module} is needed, and its package is not installed; try: pip install "
      "-e '.[eval]' in the repository."
    ) from None
