"""A probe: how well a linear map reads a treebank off frozen hidden states.

Nothing is trained by gradient. For each hidden state of the encoder, ridge
regression maps a word (the mean of its tokens) to one-hot classes, and the
highest output is the answer. Such a score says what a state holds in a form
that a small head can use; what fine-tuning would make of it, it estimates.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.sparse
from jax.sharding import Mesh
from jaxtyping import Float, Int

from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.evals.probing import targets
from time_jax.evals.probing.word_states import (
  DEV,
  FIT,
  PART,
  TUNE,
  labels_of,
  reader_of,
  rows_of,
)
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.labels import Classes
from time_jax.starts.least_squares import (
  Moments,
  solve,
  solve_each,
  squared_error,
)

# Of ridge regression, see `least_squares.solve`.
_STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# Words in every state, and for each the number of its class in every column, -1
# if unknown, and of its part.
Words = tuple[Float[np.ndarray, "L N D"], Mapping[str, Int[np.ndarray, " N"]]]


@dataclasses.dataclass(frozen=True)
class ProbeScores:
  """What a probe finds in each hidden state, the embeddings first.

  Attributes:
    columns: what is asked of every word.
    accuracy: percent of the words of dev that are right.
    explained: percent of the variance of the classes that is explained on dev;
      smoother than accuracy, and below 0 where the mean would be closer.
  """

  columns: tuple[str, ...]
  accuracy: Float[np.ndarray, "states columns"]
  explained: Float[np.ndarray, "states columns"]

  @property
  def best(self) -> dict[str, float]:
    """The accuracy of every column in the state that knows it best."""
    best = self.accuracy.max(axis=0).tolist()
    return dict(zip(self.columns, best, strict=True))

  @property
  def mean(self) -> float:
    """The mean of `best`, by which encoders are compared."""
    return float(self.accuracy.max(axis=0).mean())

  @property
  def mean_explained(self) -> float:
    """The same of what is explained."""
    return float(self.explained.max(axis=0).mean())


def probe(
  opened: OpenedEncoder,
  train: Sequence[Sentence],
  dev: Sequence[Sentence],
  mesh: Mesh,
) -> ProbeScores:
  """Scores the hidden states of an encoder.

  The strength of a state's ridge regression is that with the lowest squared
  error on the last fifth of `train`; then all of it is fitted.

  Args:
    opened: the encoder.
    train: annotated sentences to fit.
    dev: annotated sentences to score.
    mesh: devices, which hold the encoder's parameters.

  Raises:
    UserError: `train` is too small, or the encoder's states are not finite.
  """
  classes = targets.learn(train)
  numbers = [targets.targets(each, classes) for each in [*train, *dev]]
  read = reader_of(opened, mesh)
  rows = rows_of(opened, train, dev, numbers, mesh)
  return score_states(((read(row), labels_of(row)) for row in rows), classes)


def score_states(words: Iterable[Words], classes: Classes) -> ProbeScores:
  """Returns the scores of every state, from its words.

  Args:
    words: some words at a time, which may come in any order.
    classes: the classes of every column.
  """
  outputs = sum(map(len, classes.values()))
  fits: list[Moments] = []
  tunings: list[Moments] = []
  dev = []
  for x_LND, labels in words:
    if not fits:
      states, _, width = x_LND.shape
      fits = [Moments.empty(width, outputs) for _ in range(states)]
      tunings = [Moments.empty(width, outputs) for _ in range(states)]
    for part, sums in ((FIT, fits), (TUNE, tunings)):
      own = labels[PART] == part
      y = _one_hot({k: v[own] for k, v in labels.items()}, classes)
      for x_ND, moments in zip(x_LND[:, own], sums, strict=True):
        moments.add(x_ND, y)
    own = labels[PART] == DEV
    dev.append((x_LND[:, own], {k: v[own] for k, v in labels.items()}))
  x_LND = np.concatenate([x for x, _ in dev], axis=1)
  wanted = {k: np.concatenate([own[k] for _, own in dev]) for k in classes}
  scores = np.array(
    [
      _score(x_ND, wanted, classes, *solve_tuned(fit, tuning))
      for x_ND, fit, tuning in zip(x_LND, fits, tunings, strict=True)
    ]
  )
  return ProbeScores(tuple(classes), scores[:, 0], scores[:, 1])


def solve_tuned(
  fit: Moments, tuning: Moments
) -> tuple[Float[np.ndarray, "X Y"], Float[np.ndarray, " Y"]]:
  """Returns kernel and bias of all rows, of the strength that is best for some.

  Args:
    fit: moments of the rows that each strength is fitted to first.
    tuning: moments of those that the strengths are compared on.
  """
  errors = [
    squared_error(tuning, *solution).sum()
    for solution in solve_each(fit, 0.0, _STRENGTHS)
  ]
  return solve(fit + tuning, 0.0, _STRENGTHS[int(np.argmin(errors))])


def _one_hot(
  labels: Mapping[str, Int[np.ndarray, " N"]], classes: Classes
) -> scipy.sparse.csr_array:
  """Returns a row for each word, with a 1 for its class in every column."""
  offsets = np.cumsum([0, *map(len, classes.values())])
  numbers = np.stack([labels[name] for name in classes], axis=1)
  known = numbers >= 0
  columns = (numbers + offsets[:-1])[known]
  starts = np.cumsum([0, *known.sum(axis=1)])
  shape = len(numbers), offsets[-1]
  return scipy.sparse.csr_array(
    (np.ones(len(columns)), columns, starts), shape=shape
  )


def _score(
  x: Float[np.ndarray, "N D"],
  wanted: Mapping[str, Int[np.ndarray, " N"]],
  classes: Classes,
  kernel: Float[np.ndarray, "D Y"],
  bias: Float[np.ndarray, " Y"],
) -> tuple[list[float], list[float]]:
  """Returns the accuracy and the explained variance of every column.

  A class that was not seen in training is wrong, whatever is answered.
  """
  outputs = x @ kernel.astype(x.dtype) + bias.astype(x.dtype)
  accuracy, explained = [], []
  stops = np.cumsum([*map(len, classes.values())])
  for name, y in zip(classes, np.split(outputs, stops[:-1], 1), strict=True):
    known, labels = wanted[name] >= 0, wanted[name]
    accuracy.append(100 * float(np.mean(y.argmax(axis=1) == labels)))
    counts = np.bincount(labels[known], minlength=y.shape[1])
    hit = y[known, labels[known]]
    missed = (
      counts.sum() - 2 * hit.sum(dtype=float) + np.sum(y * y, dtype=float)
    )
    variance = counts.sum() - np.square(counts).sum() / len(y)
    explained.append(100 * (1 - missed / variance) if variance else 0.0)
  return accuracy, explained
