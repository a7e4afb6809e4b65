"""Paired bootstrap over the items of test files: is a difference chance?

A test file is a sample of what could have been asked. Files of the same size
are drawn from its own items (sentences, questions) with repetition; all models
are scored on each of them, and the middle 95 % of what a difference is there
are its interval (Efron 1979; for translation Koehn, ACL W04-3250; for parsing
and tagging Berg-Kirkpatrick et al., ACL D12-1091). The models stay as they are:
how much another seed changes, the standard deviation over the seeds tells.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
from jaxtyping import Float

from time_jax.report.per_item import PerItem
from time_jax.report.results import COLUMNS

FILES = 10_000  # that are drawn
_AT_ONCE = 500  # of them; more would take memory
_MIDDLE = 2.5, 97.5  # percentiles

# A number of the file as it is, followed by those of the drawn files.
Draws = Float[np.ndarray, " files"]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A number, and the middle 95 % of it over the drawn files.

  Attributes:
    value: of the file as it is.
    low: its lower end.
    high: its upper end.
  """

  value: float
  low: float
  high: float

  @classmethod
  def of(cls, draws: Draws) -> Self:
    """Returns the interval of a number."""
    low, high = np.percentile(draws[1:], _MIDDLE)
    return cls(float(draws[0]), float(low), float(high))

  @property
  def excludes_zero(self) -> bool:
    """Whether a difference is more than chance."""
    return self.low > 0 or self.high < 0


def draw(
  models: Sequence[Mapping[str, Sequence[PerItem]]], columns: Sequence[str]
) -> list[dict[str, Draws]]:
  """Scores models on the same drawn files.

  Args:
    models: for each, task -> what each item adds to the scores of every seed,
      see `Result.items`; of the same items in the same order.
    columns: keys of `COLUMNS` that all models have.

  Returns:
    For each model, column -> score in percent, the mean over its seeds.
  """
  scores: list[dict[str, Draws]] = [{} for _ in models]
  for task in dict.fromkeys(COLUMNS[name][0] for name in columns):
    own = [name for name in columns if COLUMNS[name][0] == task]
    seeds = [model[task] for model in models]
    right, whole = (_stacked(seeds, own, x) for x in ("right", "whole"))
    drawn = np.concatenate(
      [_ratio(weights, right, whole) for weights in _weights(len(right), task)]
    )
    widths = [len(own) * len(of_model) for of_model in seeds]
    parts = np.split(drawn, np.cumsum(widths)[:-1], axis=1)
    for found, part in zip(scores, parts, strict=True):
      of_seeds = part.reshape(len(part), -1, len(own))
      found |= zip(own, of_seeds.mean(axis=1).T, strict=True)
  return scores


def mean(scores: Mapping[str, Draws], columns: Sequence[str]) -> Draws:
  """Returns the mean of some columns.

  Args:
    scores: of a model, as `draw` returns them.
    columns: their names.
  """
  return np.mean([scores[name] for name in columns], axis=0)


def _stacked(
  models: Sequence[Sequence[PerItem]], columns: Sequence[str], side: str
) -> Float[np.ndarray, "N K"]:
  """Returns one side of all ratios: a row for every item.

  It has a column for each of `columns`, within each seed, within each model.
  """
  metrics = [COLUMNS[name][1] for name in columns]
  found = [
    getattr(of_seed[metric], side)
    for of_model in models
    for of_seed in of_model
    for metric in metrics
  ]
  return np.array(found, float).T


def _weights(
  items: int, task: str
) -> Iterator[Float[np.ndarray, "files items"]]:
  """Yields how often each item is in some of the files, at first the file's."""
  yield np.ones((1, items))
  # The same report gives the same numbers.
  random = np.random.default_rng([*task.encode()])
  share = np.full(items, 1 / items)
  for start in range(0, FILES, _AT_ONCE):
    count = min(_AT_ONCE, FILES - start)
    yield random.multinomial(items, share, size=count).astype(float)


def _ratio(
  weights: Float[np.ndarray, "files N"],
  right: Float[np.ndarray, "N K"],
  whole: Float[np.ndarray, "N K"],
) -> Float[np.ndarray, "files K"]:
  could = weights @ whole
  # A drawn file may have nothing to find.
  return 100 * (weights @ right) / np.where(could > 0, could, 1)
