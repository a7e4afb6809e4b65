"""The scores of named entities, by `seqeval`."""

import importlib
from collections.abc import Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.ner.iob import OUTSIDE

METRICS = ("F1", "precision", "recall")
Tags = Sequence[Sequence[str]]


def score(gold: Tags, predicted: Tags) -> dict[str, float | None]:
  """Of whole entities, right in type and both ends, in percent.

  seqeval's default mode, which counts as conlleval does; on valid IOB2, as
  `iob.read` demands and `iob.repair` gives, its strict mode finds the same.

  Args:
    gold: the tags of every sentence.
    predicted: of the same sentences.

  Returns:
    The metrics; None for each where `gold` has no entity: whatever is
    predicted, they are not defined, or say nothing about the model.
  """
  if not has_entity(gold):
    return dict.fromkeys(METRICS)
  library = load_scorer()
  names = ("f1_score", "precision_score", "recall_score")
  found = [
    getattr(library, name)(list(gold), list(predicted), zero_division=0)
    for name in names
  ]
  return {
    name: 100 * float(value) for name, value in zip(METRICS, found, strict=True)
  }


def has_entity(tags: Tags) -> bool:
  """Whether there is anything to find."""
  return any(tag != OUTSIDE for sentence in tags for tag in sentence)


def load_scorer() -> Any:
  """Seqeval's metrics; UserError where it is not installed."""
  try:
    return importlib.import_module("seqeval.metrics")
  except ImportError:
    raise UserError(
      "scores need the package seqeval, which is not installed; try: pip "
      "install -e '.[eval]' in the repository."
    ) from None
