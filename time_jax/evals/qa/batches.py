"""Windows of questions -> batches with the places of their answers."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from time_jax.core.arrays import Batch
from time_jax.evals.common import batches
from time_jax.evals.common.batches import Numbers
from time_jax.evals.qa.squad import Question
from time_jax.evals.qa.windows import Window

ELSEWHERE = 0  # the place of the token that stands for "not in this window"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpanBatch:
  """Rows of one window each.

  Attributes:
    batch: the tokens, as an encoder takes them.
    in_context: which tokens are of the context, so may be of an answer.
    targets: places of the answer's first and last token; -1: an empty row.
  """

  batch: Batch
  in_context: Bool[Array | np.ndarray, "B T"]
  targets: Int[Array | np.ndarray, "B 2"]


@dataclasses.dataclass(frozen=True)
class SpanExamples:
  """See `batches.Examples`.

  Attributes:
    windows: of questions.
    pad_id: for free places.
    targets: of each window; or none.
  """

  windows: Sequence[Window]
  pad_id: int
  targets: Sequence[tuple[int, int]] = ()

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each window."""
    return np.array([len(window.tokens) for window in self.windows])

  def fill(self, chosen: Numbers, length: int, rows: int) -> SpanBatch:
    """Lays windows into rows."""
    windows = [self.windows[i] for i in chosen]
    types = np.zeros((rows, length), np.int32)
    in_context = np.zeros((rows, length), bool)
    targets = np.full((rows, 2), -1, np.int32)
    for row, window in enumerate(windows):
      types[row, : len(window.tokens)] = window.token_types
      in_context[row, window.first : window.first + len(window.spans)] = True
      if self.targets:
        targets[row] = self.targets[chosen[row]]
    tokens = [window.tokens for window in windows]
    batch = batches.lay(tokens, length, rows, self.pad_id)
    batch = dataclasses.replace(batch, token_types=types)
    return SpanBatch(batch, in_context, targets)


def targets_of(
  windows: Sequence[Window], questions: Sequence[Question]
) -> list[tuple[int, int]]:
  """The place of each question's first answer in its windows."""
  found = []
  for window in windows:
    place = window.place_of(questions[window.question].answers[0])
    found.append(place or (ELSEWHERE, ELSEWHERE))
  return found
