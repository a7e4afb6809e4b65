"""`finetune qa`: questions whose answers stand in a text."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from time_jax.core.notes import note
from time_jax.evals.common.task import Task
from time_jax.evals.common.word_layers import smoothed_loss
from time_jax.evals.qa import scoring, squad
from time_jax.evals.qa.reader import (
  ELSEWHERE,
  Reader,
  SpanBatch,
  SpanExamples,
  possible_places,
)
from time_jax.evals.qa.squad import Question
from time_jax.evals.qa.windows import Window
from time_jax.report.per_item import Ratios

Target = tuple[int, int]  # places of the first and the last token


class Qa(Task):
  """Extractive question answering; see `task.Task`."""

  name = "qa"
  metrics = scoring.METRICS
  chosen_by = ("F1",)
  ending = ".json"
  pipe = "< questions.json > answers.jsonl"
  network_class = Reader
  read = staticmethod(squad.read)
  to_text = staticmethod(squad.to_predictions)
  # The language may decide how answers are compared.
  no_matter = ("seeds", "model", "step", "label", "allow_pickle")

  def learn(self) -> dict[str, Any]:
    """Returns how windows are cut and answers found; there are no classes."""
    self.scorer = scoring.definition(self.config.lang, self.config.data.rules)
    data = self.config.data
    windows = {name: data[name] for name in ("overlap", "longest_answer")}
    return {"heads": {}, "classes": {}, "windows": windows}

  def make_examples(self) -> SpanExamples:
    """Cuts all splits: a question that is too long stops the run at once."""
    windows = {k: self.network.cutter.windows(v) for k, v in self.data.items()}
    questions, windows = self.data["train"], windows["train"]
    targets = [
      window.place_of(questions[window.question].answers[0])
      or (ELSEWHERE, ELSEWHERE)
      for window in windows
    ]
    if jax.process_index() == 0:
      note_lost(windows, targets, questions)
    return SpanExamples(windows, self.opened.tokenizer.pad_id, targets)

  def losses(
    self, variables: dict[str, Any], scores: Array, batch: SpanBatch
  ) -> dict[str, Array]:
    """Returns the cross-entropy over the places of first and last token."""
    del variables
    smoothing = self.config.train.label_smoothing
    places = jnp.broadcast_to(possible_places(batch), scores.shape)
    return {"SPAN": smoothed_loss(scores, batch.targets, smoothing, places)}

  def score(
    self, gold: Sequence[Question], predicted: Sequence[Question]
  ) -> dict[str, float]:
    """Returns F1 and exact match by the rules of the recipe."""
    lang, rules = self.config.lang, self.config.data.rules
    return scoring.score(gold, predicted, lang, rules)

  def per_item(
    self, gold: Sequence[Question], predicted: Sequence[Question]
  ) -> dict[str, Ratios]:
    """Returns the same of every question."""
    lang, rules = self.config.lang, self.config.data.rules
    return scoring.per_item(gold, predicted, lang, rules)


def note_lost(
  windows: Sequence[Window],
  targets: Sequence[Target],
  questions: Sequence[Question],
) -> None:
  """Prints how many answers are in no window, why, and what to do.

  Args:
    windows: all windows of the training file.
    targets: for each window what it is trained to point at.
    questions: the questions of the training file.
  """
  pairs = zip(windows, targets, strict=True)
  taught = {w.question for w, target in pairs if target != (ELSEWHERE,) * 2}
  lost = set(range(len(questions))) - taught
  cut = {
    window.question
    for window in windows
    if window.question in lost
    and window.touches(questions[window.question].answers[0])
  }
  for numbers, reason, advice in (
    (
      cut,
      "its answer is whole in no window",
      "raise data.overlap or data.longest",
    ),
    (
      lost - cut,
      "the tokenizer has no token for its answer",
      "take a model whose tokenizer knows these characters, or remove such "
      "questions",
    ),
  ):
    if numbers:
      question = questions[min(numbers)]
      note(
        f"{question.place}: {reason}, {question.answers[0].text!r:.40}, so it "
        f"is not trained on ({len(numbers)} such questions in this file); "
        f"{advice}."
      )
