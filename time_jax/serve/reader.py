"""Answers to questions: a model of `finetune qa`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from time_jax.core.errors import UserError
from time_jax.evals.qa.squad import Answer, Question
from time_jax.evals.qa.windows import Window, WindowCutter
from time_jax.hf.onnx_names import PLACES
from time_jax.serve.folder import Folder
from time_jax.serve.items import InputError, read_all
from time_jax.serve.items import question as as_question
from time_jax.serve.rows import Beat, Row, RowGraph


class Reader:
  """Answers questions from a text.

  An item is {"question": ..., "context": ...}. What is found for it has the
  "answer", its "start" and "end" in the context, in characters, and its
  "score", the probability in the window of tokens that it was found in. Where
  a context has no word the answer is empty.
  """

  example = {"question": "Who?", "context": "Ada Lovelace did it."}  # noqa: RUF012

  def __init__(self, folder: Folder) -> None:
    """Opens the model of a folder; raises UserError where it cannot."""
    self._graph = RowGraph(folder.file())
    windows = folder.description["windows"]
    self._longest_answer = windows["longest_answer"]
    types = 2 if self._graph.has_types else 1
    self._cutter = WindowCutter(
      folder.tokenizer, folder.longest, windows["overlap"], types
    )

  def __call__(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[dict[str, Any]]:
    """See `model.Model`."""
    questions = read_all(as_question, items)
    windows = self._windows(questions)
    rows = [Row(window.tokens, window.token_types) for window in windows]
    spans = {}
    for numbers, outputs in self._graph.run(rows, PLACES, beat):
      for row, i in enumerate(numbers):
        logits = np.stack([outputs[name][row] for name in PLACES])
        spans[i] = best_span(logits, windows[i], self._longest_answer)
    best = [(-math.inf, Answer("", 0, 0.0))] * len(questions)
    for i, window in enumerate(windows):
      first, last, log_p = spans[i]
      if log_p > best[window.question][0]:
        context = questions[window.question].context
        answer = window.answer(context, first, last, math.exp(log_p))
        best[window.question] = log_p, answer
    return [_found(answer) for _, answer in best]

  def _windows(self, questions: Sequence[Question]) -> list[Window]:
    try:
      return self._cutter.windows(questions)
    except UserError as error:  # A question that leaves no room.
      raise InputError(str(error)) from None


def _found(answer: Answer) -> dict[str, Any]:
  score = round(answer.score, 6)
  span = {"start": answer.start, "end": answer.stop}
  return {"answer": answer.text, **span, "score": score}


def best_span(
  logits: Float[np.ndarray, "2 t"], window: Window, longest: int
) -> tuple[int, int, float]:
  """Returns the first and last token of the best answer, and its log p.

  As `evals.qa.reader.best_spans`, which computes whole batches in JAX.

  Args:
    logits: unnormalised scores of each token as the first and as the last one.
    window: the row, which padding may follow.
    longest: tokens of an answer at most.

  Returns:
    Places in the window; where the context has no token, log p is -inf.
  """
  count = len(window.spans)
  if not count:
    return 0, 0, -math.inf
  context = slice(window.first, window.first + count)
  # Place 0 stands for "not in this window".
  seen = np.concatenate([logits[:, :1], logits[:, context]], axis=1)
  seen = seen - seen.max(axis=1, keepdims=True)
  seen -= np.log(np.exp(seen).sum(axis=1, keepdims=True))
  first, last = seen[:, 1:]
  both = first[:, None] + last[None]
  ahead = np.arange(count)[None] - np.arange(count)[:, None]
  both[(ahead < 0) | (ahead >= longest)] = -math.inf
  place = int(both.argmax())
  start, stop = divmod(place, count)
  return window.first + start, window.first + stop, float(both.flat[place])
