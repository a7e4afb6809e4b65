"""Answers as spans: scores for the first and the last token, nothing else.

As BERT does it (arXiv 1810.04805, section 4.2). A window without the answer is
trained to point at its first token; so the probabilities of all windows of a
question can be compared, and the best span of all is the answer.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from time_jax.evals.common import batches
from time_jax.evals.common.network import Network
from time_jax.evals.qa.batches import ELSEWHERE, SpanBatch, SpanExamples
from time_jax.evals.qa.squad import Answer, Question
from time_jax.evals.qa.windows import WindowCutter
from time_jax.models.family import Params
from time_jax.parallel import sharding


class Heads(nn.Module):
  """Everything above the encoder.

  Attributes:
    dropout: before the layer.
    dtype: of computation.
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
    """Scores of every token as the first and as the last of the answer."""
    del batch
    x = states[-1].astype(self.dtype)
    x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
    x = nn.Dense(2, dtype=self.dtype)(x).astype(jnp.float32)
    return jnp.swapaxes(x, 1, 2)


def possible(batch: SpanBatch) -> Bool[Array, "B 1 T"]:
  """Tokens that can be pointed at: of the context, and `ELSEWHERE`."""
  elsewhere = jnp.arange(batch.in_context.shape[1]) == ELSEWHERE
  return (jnp.asarray(batch.in_context) | elsewhere[None])[:, None]


def best_spans(
  scores: Float[Array, "B 2 T"], batch: SpanBatch, longest: int
) -> tuple[Array, Array, Array]:
  """The first and last token of each row's best answer, and its log p.

  Args:
    scores: unnormalised.
    batch: with the tokens of the context; a row without any has no meaning.
    longest: tokens of an answer at most.
  """
  log_p = jax.nn.log_softmax(jnp.where(possible(batch), scores, -1e9))
  both_BTT = log_p[:, 0, :, None] + log_p[:, 1, None, :]
  place = jnp.arange(scores.shape[-1])
  length_TT = place[None] - place[:, None] + 1
  fits_TT = (length_TT >= 1) & (length_TT <= longest)
  known_BT = batch.in_context
  valid_BTT = known_BT[:, :, None] & known_BT[:, None] & fits_TT[None]
  flat = jnp.where(valid_BTT, both_BTT, -jnp.inf).reshape(len(scores), -1)
  best = jnp.argmax(flat, axis=-1)
  return (*jnp.divmod(best, scores.shape[-1]), jnp.max(flat, axis=-1))


@dataclasses.dataclass(frozen=True)
class Reader(Network):
  """See `network.Network`.

  Attributes:
    overlap: of windows, in tokens.
    longest_answer: in tokens.
  """

  overlap: int
  longest_answer: int

  @functools.cached_property
  def cutter(self) -> WindowCutter:
    """Questions to windows."""
    types = getattr(self.opened.config, "num_token_types", 1)
    longest = self.buckets.longest
    return WindowCutter(self.opened.words, longest, self.overlap, types)

  def annotate(
    self,
    params: Params,
    questions: Sequence[Question],
    beat: Callable[[], None] = batches.silent,
  ) -> list[Question]:
    """The questions with predicted answers.

    Where a context has no tokens, or a question leaves no room for any, the
    answer is empty and has the score 0.
    """
    windows = self.cutter.windows_that_fit(questions)
    found = [(-np.inf, Answer("", 0, 0.0))] * len(questions)
    examples = SpanExamples(windows, self.opened.words.pad_id)
    with sharding.use_mesh(self.mesh):
      for chosen, host in batches.in_order(examples, self.buckets, beat):
        spans = self.program(params, batches.place(host, self.mesh))
        rows = zip(*map(np.asarray, spans), strict=True)
        for i, (first, last, log_p) in zip(chosen, rows, strict=False):
          window = windows[i]
          number = window.question
          if log_p > found[number][0]:
            context = questions[number].context
            score = float(np.exp(log_p))
            found[number] = (
              log_p,
              window.answer(context, int(first), int(last), score),
            )
    return [
      question.with_answer(answer)
      for question, (_, answer) in zip(questions, found, strict=True)
    ]

  @functools.cached_property
  def program(self) -> Callable[..., Any]:
    """(params, batch) -> see `best_spans`; compiled."""

    @functools.partial(jax.jit, out_shardings=NamedSharding(self.mesh, P()))
    def read(params: Params, batch: SpanBatch) -> tuple[Array, Array, Array]:
      states = self.states(params, batch)
      scores: Any = self.heads.apply({"params": params["heads"]}, states, batch)
      return best_spans(scores, batch, self.longest_answer)

    return read
