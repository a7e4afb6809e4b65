"""What 8 bits cost: scores beside those of the same model in float32."""

from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.pipeline.subjects import FLOAT32, INT8


def points(
  model: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
  """Returns how far the scores of a model in 8 bits are from float32's.

  Args:
    model: one of `models`.
    models: all that are measured, as in the JSON file.

  Returns:
    "model", the name of the first that is the same model in float32, and
    "points": score -> difference, below 0 where 8 bits are worse. None, where
    the model is not in 8 bits, or none is the same in float32.
  """
  if model["dtype"] != INT8:
    return None
  for other in models:
    same = other["plain_name"] == model["plain_name"]
    if same and other["dtype"] == FLOAT32:
      before, after = other["scores"], model["scores"]
      both = [k for k in before if None not in (before[k], after[k])]
      return {
        "model": other["name"],
        "points": {name: after[name] - before[name] for name in both},
      }
  return None


def in_words(model: Mapping[str, Any], shown: Sequence[str]) -> str:
  """Returns a line about a model with a cost.

  Args:
    model: a model of the JSON file.
    shown: the scores to say.
  """
  cost = model["against_float32"]
  said = [f"{k} {cost['points'][k]:+.2f}" for k in shown if k in cost["points"]]
  return f"{model['name']} against {cost['model']}: {', '.join(said)} points"
