"""The scores of named entities, by `seqeval`."""

import importlib
from collections.abc import Sequence
from typing import Any

from time_jax.errors import UserError

METRICS = ("F1", "precision", "recall")
Tags = Sequence[Sequence[str]]


def score(gold: Tags, predicted: Tags) -> dict[str, float]:
  """Of whole entities, right in type and both ends, in percent.

  seqeval's default mode, which counts as conlleval does; on valid IOB2, as
  `iob.read` demands and `iob.repair` gives, its strict mode finds the same.

  Args:
    gold: the tags of every sentence.
    predicted: of the same sentences.
  """
  library = load_scorer()
  names = ("f1_score", "precision_score", "recall_score")
  found = [
    getattr(library, name)(list(gold), list(predicted), zero_division=0)
    for name in names
  ]
  return {
    name: 100 * float(value) for name, value in zip(METRICS, found, strict=True)
  }


def load_scorer() -> Any:
  """Seqeval's metrics; UserError where it is not installed."""
  try:
    return importlib.import_module("seqeval.metrics")
  except ImportError:
    raise UserError(
      "scores need the package seqeval, which is not installed; try: pip "
      "install 'time-jax[eval]'."
    ) from None
