"""Pipelines of spaCy, which are measured beside ours."""

import importlib
from typing import Any

from time_jax.core.errors import UserError


def load(name: str) -> Any:
  """Loads a pipeline with all of its components.

  Args:
    name: installed package of spaCy, or a folder.

  Raises:
    UserError: spaCy or the pipeline is not installed.
  """
  try:
    spacy: Any = importlib.import_module("spacy")
  except ImportError:
    raise UserError(
      f"{name} needs spaCy, which is not installed; expected "
      f"`pip install spacy` and `python -m spacy download {name}`."
    ) from None
  try:
    return spacy.load(name)
  except OSError:
    raise UserError(
      f"{name}: spaCy has no such pipeline; expected one that is "
      f"installed, by `python -m spacy download {name}`, or a folder."
    ) from None


def describe(pipeline: Any) -> str:
  """Returns name and version, which stand in for a fingerprint."""
  meta = pipeline.meta
  return f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}"
