"""The network of `finetune qa`: logits of an answer's first and last token.

As in BERT (arXiv 1810.04805, section 4.2). A window without the answer is
trained to point at its own first token. So the probabilities of spans can be
compared between the windows of a question, and the best span is the answer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from time_jax.core.arrays import Batch
from time_jax.evals.common import batches
from time_jax.evals.common.batches import Numbers, Shape
from time_jax.evals.common.engine import Engine, Work
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.task import FIRST, Beat, Network
from time_jax.evals.qa import onnx_head
from time_jax.evals.qa.squad import Answer, Question
from time_jax.evals.qa.windows import Window, WindowCutter
from time_jax.models.dropout import Dropout
from time_jax.models.family import Params

ELSEWHERE = 0  # place of the token that stands for "not in this window"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpanBatch:
  """Rows of one window each.

  Attributes:
    batch: the tokens, as an encoder takes them.
    in_context: which tokens are of the context and may be of an answer.
    targets: places of the answer's first and last token; -1: an empty row.
  """

  batch: Batch
  in_context: Bool[Array | np.ndarray, "B T"]
  targets: Int[Array | np.ndarray, "B 2"]


@dataclasses.dataclass(frozen=True)
class SpanExamples:
  """Windows as examples; see `batches.Examples`.

  Attributes:
    windows: windows of questions.
    pad_id: id of the padding token.
    targets: places of the answer's first and last token in each window, or
      `ELSEWHERE` twice; or empty.
  """

  windows: Sequence[Window]
  pad_id: int
  targets: Sequence[tuple[int, int]] = ()

  @functools.cached_property
  def _tokens(self) -> list[Int[np.ndarray, " t"]]:
    return [window.tokens for window in self.windows]

  @property
  def sizes(self) -> Int[np.ndarray, " n"]:
    """Tokens of each window."""
    return np.array([*map(len, self._tokens)], np.int64)

  @property
  def words(self) -> Int[np.ndarray, " n"]:
    """A window is one, and so alone in its row."""
    return np.ones(len(self.windows), np.int64)

  def room(self, tokens: int, parts: int) -> int:
    """Returns the windows of a row."""
    del tokens, parts
    return 1

  def fill(self, rows: Sequence[Numbers], shape: Shape) -> SpanBatch:
    """Writes a window into each row."""
    types = np.zeros((shape.rows, shape.tokens), np.int32)
    in_context = np.zeros((shape.rows, shape.tokens), bool)
    targets = np.full((shape.rows, 2), -1, np.int32)
    for row, (i,) in enumerate(rows):
      window = self.windows[i]
      types[row, : len(window.tokens)] = window.token_types
      in_context[row, window.first : window.first + len(window.spans)] = True
      if self.targets:
        targets[row] = self.targets[i]
    batch = batches.fill_rows(self._tokens, rows, shape, self.pad_id)
    batch = dataclasses.replace(batch, token_types=types)
    return SpanBatch(batch, in_context, targets)


class SpanHead(nn.Module):
  """Dropout and a linear layer.

  Attributes:
    dropout: dropout rate before the layer.
    dtype: dtype of computation.
  """

  dropout: float
  dtype: DTypeLike = jnp.dtype("float32")

  @nn.compact
  def __call__(
    self,
    states: Float[Array, "L B T D"],
    batch: SpanBatch,
    deterministic: bool = True,
  ) -> Float[Array, "B 2 T"]:
    """Returns logits of each token as the first and the last of the answer."""
    del batch
    x = states[-1].astype(self.dtype)
    x = Dropout(self.dropout)(x, deterministic=deterministic)
    x = nn.Dense(2, dtype=self.dtype)(x).astype(jnp.float32)
    return jnp.swapaxes(x, 1, 2)


def possible_places(batch: SpanBatch) -> Bool[Array, "B 1 T"]:
  """Returns which tokens may be pointed at: the context's, and `ELSEWHERE`."""
  elsewhere = jnp.arange(batch.in_context.shape[1]) == ELSEWHERE
  return (jnp.asarray(batch.in_context) | elsewhere[None])[:, None]


def best_spans(
  logits: Float[Array, "B 2 T"], batch: SpanBatch, longest: int
) -> tuple[Array, Array, Array]:
  """Returns the first and last token of each row's best answer, and its log p.

  Args:
    logits: unnormalised scores of the first and the last token.
    batch: tells the tokens of the context; in a row without any the answer is
      arbitrary and its log p is -inf.
    longest: tokens of an answer at most.
  """
  log_p = jax.nn.log_softmax(jnp.where(possible_places(batch), logits, -1e9))
  both_BTT = log_p[:, 0, :, None] + log_p[:, 1, None, :]
  place = jnp.arange(logits.shape[-1])
  length_TT = place[None] - place[:, None] + 1
  fits_TT = (length_TT >= 1) & (length_TT <= longest)
  known_BT = batch.in_context
  valid_BTT = known_BT[:, :, None] & known_BT[:, None] & fits_TT[None]
  flat = jnp.where(valid_BTT, both_BTT, -jnp.inf).reshape(len(logits), -1)
  best = jnp.argmax(flat, axis=-1)
  return (*jnp.divmod(best, logits.shape[-1]), jnp.max(flat, axis=-1))


class Reader(Network):
  """Answers questions."""

  @property
  def heads(self) -> SpanHead:
    """See `task.Network`."""
    return SpanHead(self.dropout, jnp.dtype(self.dtype))

  @property
  def blank(self) -> SpanBatch:
    """See `task.Network`."""
    examples = SpanExamples([], self.opened.tokenizer.pad_id)
    return examples.fill([], Shape(1, 1, 1))

  @functools.cached_property
  def cutter(self) -> WindowCutter:
    """Turns questions into windows."""
    return WindowCutter(
      self.opened.tokenizer,
      self.buckets.lengths[-1],
      self.spec["windows"]["overlap"],
      getattr(self.opened.config, "num_token_types", 1),
    )

  @property
  def programs(self) -> dict[str, Callable[..., Any]]:
    """See `task.Network`."""
    return {FIRST: self.outputs}

  def graphs(self, params: Params) -> dict[str, Program]:
    """See `task.Network`."""
    config = self.opened.config
    longest = self.spec["windows"]["longest_answer"]
    return {FIRST: onnx_head.first_program(config, params, longest)}

  def outputs(
    self, params: Params, batch: SpanBatch
  ) -> tuple[Array, Array, Array]:
    """See `best_spans`."""
    longest = self.spec["windows"]["longest_answer"]
    return best_spans(self.scores(params, batch), batch, longest)

  def prepare(self, items: Sequence[Question]) -> Work:
    """See `task.Network`."""
    windows = self.cutter.windows(items, skip_long=True)
    examples = SpanExamples(windows, self.opened.tokenizer.pad_id)
    return Work(items, windows, list(batches.in_rows(examples, self.buckets)))

  def finish(self, engine: Engine, work: Work, beat: Beat) -> list[Question]:
    """Returns the questions with predicted answers.

    Where a context has no tokens, or a question leaves no room for any, the
    answer is empty and has the score 0.
    """
    spans: dict[int, tuple[int, int, float]] = {}
    for rows, (first, last, log_p) in self.predict(engine, work, beat):
      for row, (i,) in enumerate(rows):
        spans[i] = int(first[row]), int(last[row]), float(log_p[row])
    best = [(-np.inf, Answer("", 0, 0.0))] * len(work.items)
    for i, window in enumerate(work.examples):
      first, last, log_p = spans[i]
      if log_p > best[window.question][0]:
        context = work.items[window.question].context
        answer = window.answer(context, first, last, math.exp(log_p))
        best[window.question] = log_p, answer
    return [
      question.with_answer(answer)
      for question, (_, answer) in zip(work.items, best, strict=True)
    ]
