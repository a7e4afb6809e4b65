"""Imports packages of extras, which few commands need."""

import importlib
from typing import Any

from time_jax.core.errors import UserError

UDTOOLS = "udtools.udeval"
SEQEVAL = "seqeval.metrics"
SEQEVAL_TAGS = "seqeval.metrics.sequence_labeling"
SPACY = "spacy"
_EXTRA = {SPACY: "spacy"}


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
      f"-e '.[{_EXTRA.get(module, 'eval')}]' in the repository."
    ) from None
