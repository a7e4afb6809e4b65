"""`finetune qa`: questions whose answers stand in a text."""

import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from time_jax.evals.common import finetuning
from time_jax.evals.common.batches import Buckets
from time_jax.evals.common.encoders import Opened
from time_jax.evals.common.task import Task
from time_jax.evals.common.word_vectors import smoothed_loss
from time_jax.evals.qa import batches, scoring, squad
from time_jax.evals.qa.batches import SpanBatch, SpanExamples
from time_jax.evals.qa.model import Heads, Reader, possible
from time_jax.evals.qa.squad import Question
from time_jax.evals.qa.windows import Window

_SIZES = ("overlap", "longest_answer")


def finetune_qa(
  config: ConfigDict, workdir: pathlib.Path, typed: Collection[str] = ()
) -> int:
  """See `finetuning.finetune`; config: see `recipe.qa_config`."""
  return finetuning.finetune(config, workdir, Qa, typed)


class Qa(Task):
  """See `task.Task`."""

  name = "qa"
  metrics = scoring.METRICS
  ending = ".json"
  pipe = "< questions.json > answers.jsonl"
  # Its language may say how answers are compared.
  no_matter = ("seeds", "model", "step", "label", "allow_pickle")

  def __init__(
    self,
    config: ConfigDict,
    data: Mapping[str, Sequence[Question]],
    opened: Opened,
    buckets: Buckets,
    mesh: Mesh,
  ) -> None:
    """Cuts the training file into windows."""
    super().__init__(config, data, opened, buckets, mesh)
    self.scorer = scoring.definition(config.lang, config.data.rules)
    self.heads = Heads(config.train.dropout, jnp.dtype(config.train.dtype))
    sizes = {name: config.data[name] for name in _SIZES}
    self.network = Reader(opened, self.heads, buckets, mesh, **sizes)
    questions = data["train"]
    # Of all splits: what is wrong with one is said before training.
    cut = {s: self.network.cutter.windows(some) for s, some in data.items()}
    windows = cut["train"]
    targets = batches.targets_of(windows, questions)
    if jax.process_index() == 0:
      note_lost(windows, targets, questions)
    self.examples = SpanExamples(windows, opened.words.pad_id, targets)

  @staticmethod
  def load_libraries() -> None:
    """Nothing."""

  @staticmethod
  def read(path: pathlib.Path) -> list[Question]:
    """The questions of a file in the layout of SQuAD v1.1."""
    return squad.read(path)

  def losses(
    self, variables: dict, states: Array, batch: SpanBatch, rng: Array
  ) -> dict[str, Array]:
    """Cross-entropy over the places of the first and the last token."""
    scores: Any = self.heads.apply(
      variables, states, batch, deterministic=False, rngs={"dropout": rng}
    )
    smoothing = self.config.train.label_smoothing
    places = jnp.broadcast_to(possible(batch), scores.shape)
    return {"SPAN": smoothed_loss(scores, batch.targets, smoothing, places)}

  def score(self, split: str, found: Sequence[Question]) -> dict[str, float]:
    """F1 and exact match, against the file."""
    lang, rules = self.config.lang, self.config.data.rules
    return scoring.score(self.data[split], found, lang, rules)

  def quality(self, scores: Mapping[str, float]) -> float:
    """F1."""
    return scores["F1"]

  def to_text(self, found: Sequence[Question]) -> str:
    """Predictions as the program of SQuAD reads them."""
    return squad.to_predictions(found)

  def record(self) -> dict[str, Any]:
    """How windows are cut and answers are found; there are no classes."""
    windows = {name: self.config.data[name] for name in _SIZES}
    return {"heads": {}, "classes": {}, "windows": windows}


def from_record(
  opened: Opened, record: Mapping[str, Any], buckets: Buckets, mesh: Mesh
) -> Reader:
  """The model for what task.json says, without parameters."""
  sizes = {name: record["windows"][name] for name in _SIZES}
  return Reader(opened, Heads(0.0), buckets, mesh, **sizes)


def note_lost(
  windows: Sequence[Window],
  targets: Sequence[tuple[int, int]],
  questions: Sequence[Question],
) -> None:
  """Says how many answers teach nothing, why, and what helps."""
  nowhere = (batches.ELSEWHERE,) * 2
  pairs = zip(windows, targets, strict=True)
  taught = {window.question for window, target in pairs if target != nowhere}
  touched = {
    window.question
    for window in windows
    if window.question not in taught
    and window.touches(questions[window.question].answers[0])
  }
  for lost, reason, advice in (
    (
      touched,
      "its answer is whole in no window",
      "raise data.overlap or data.longest",
    ),
    (
      set(range(len(questions))) - taught - touched,
      "the tokenizer has no token for its answer",
      "take a model whose tokenizer knows these characters, or remove such "
      "questions",
    ),
  ):
    if lost:
      question = questions[min(lost)]
      print(
        f"time_jax: note: {question.place}: {reason}, "
        f"{question.answers[0].text!r:.40}, so it is not trained on "
        f"({len(lost)} such questions in this file); {advice}.",
        file=sys.stderr,
      )
