"""`finetune ner`: named entities, as IOB2 tags of words."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.evals.common.packages import (
  SEQEVAL,
  SEQEVAL_TAGS,
  load_package,
)
from time_jax.evals.common.task import SPLITS, Task
from time_jax.evals.common.word_layers import smoothed_loss
from time_jax.evals.common.word_network import WordBatch, WordExamples
from time_jax.evals.ner import iob, parquet_tags
from time_jax.evals.ner.iob import Sentence
from time_jax.evals.ner.layouts import OUTSIDE
from time_jax.evals.ner.tagger import TAG, Tagger
from time_jax.report.per_item import Ratios

METRICS = ("F1", "precision", "recall")
Tags = Sequence[Sequence[str]]  # of the words of every sentence


def read(path: pathlib.Path) -> list[Sentence]:
  """Returns the sentences of a file of IOB2, or of parquet."""
  reader = parquet_tags if path.suffix == ".parquet" else iob
  return reader.read(path)


def score(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> dict[str, float | None]:
  """Returns seqeval's scores, see `score_tags`."""
  return score_tags([s.tags for s in gold], [s.tags for s in predicted])


def per_item(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> dict[str, Ratios]:
  """Returns what each sentence adds to F1 of entities, see `Ratios`.

  Args:
    gold: annotated sentences.
    predicted: the same sentences with predicted tags.

  Returns:
    Nothing where `gold` has no entity, and `score` is undefined.
  """
  if not has_entity([sentence.tags for sentence in gold]):
    return {}
  pairs = [
    (_entities(own), _entities(guess))
    for own, guess in zip(gold, predicted, strict=True)
  ]
  return {
    "F1": Ratios(
      [2 * len(own & guess) for own, guess in pairs],
      [len(own) + len(guess) for own, guess in pairs],
    )
  }


def _entities(sentence: Sentence) -> set[tuple[str, int, int]]:
  module = load_package(SEQEVAL_TAGS)
  return set(module.get_entities(list(sentence.tags)))


class Ner(Task):
  """Named entity recognition; see `task.Task`."""

  name = "ner"
  metrics = METRICS
  chosen_by = ("F1",)  # of entities, as the reference chooses by
  scorer = "seqeval"
  ending = ".iob2"
  pipe = "< text > out.iob2"
  packages = (SEQEVAL,)
  network_class = Tagger
  read = staticmethod(read)
  to_text = staticmethod(iob.to_text)
  score = staticmethod(score)
  per_item = staticmethod(per_item)

  def learn(self) -> dict[str, Any]:
    """Returns the tags of the training file."""
    tags = learn_tags(self.data["train"])
    for split in SPLITS[1:]:
      if split in self.data:
        check_entities(split, self.data[split])
        if jax.process_index() == 0:
          note_unknown(self.data[split], tags)
    return {"heads": {}, "classes": {TAG: tags}}

  def make_examples(self) -> WordExamples:
    """See `task.Task`."""
    sentences = self.data["train"]
    number = {tag: i for i, tag in enumerate(self.network.tags)}
    chunks = self.network.tokenizer.chunks([s.words for s in sentences])
    targets = []
    for chunk in chunks:
      tags = sentences[chunk.sentence].tags[chunk.start :][: chunk.num_words]
      targets.append({TAG: np.array([number[tag] for tag in tags], np.int32)})
    return WordExamples(chunks, self.opened.tokenizer.pad_id, targets)

  def losses(
    self, variables: dict[str, Any], scores: Array, batch: WordBatch
  ) -> dict[str, Array]:
    """Returns the cross-entropy over the tags."""
    del variables
    smoothing = self.config.train.label_smoothing
    return {TAG: smoothed_loss(scores, batch.targets[TAG], smoothing)}


def learn_tags(sentences: Sequence[Sentence]) -> list[str]:
  """Returns the tags of a training file, common ones first.

  Raises:
    UserError: there is no entity in it.
  """
  counts = collections.Counter(tag for s in sentences for tag in s.tags)
  if set(counts) == {OUTSIDE}:
    raise UserError(
      f"{sentences[0].name}: all tags are {OUTSIDE}; expected a training file "
      "with entities (B-TYPE, I-TYPE)."
    )
  return sorted(counts, key=lambda tag: (-counts[tag], tag))


def check_entities(split: str, sentences: Sequence[Sentence]) -> None:
  """Notes that a test file has no entity, and refuses such a dev file.

  Raises:
    UserError: the dev file has none, so no epoch can be chosen by it.
  """
  if has_entity([sentence.tags for sentence in sentences]):
    return
  name = sentences[0].name
  if split == "dev":
    raise UserError(
      f"{name}: all tags are {OUTSIDE}, so F1 is undefined and no epoch can be "
      "chosen by it; expected a dev file with entities, such as some sentences "
      "of the training file that are left out of it."
    )
  if jax.process_index() == 0:
    note(
      f"{name}: all tags are {OUTSIDE}, so the scores of {split} are undefined."
    )


def note_unknown(sentences: Sequence[Sentence], tags: Sequence[str]) -> None:
  """Prints which tags can never be right, with the line of the first."""
  places: dict[str, list[str]] = {}
  for sentence in sentences:
    for i, tag in enumerate(sentence.tags):
      if tag not in tags:
        places.setdefault(tag, []).append(sentence.place(i))
  for tag, where in places.items():
    note(
      f"{where[0]}: the tag {tag!r} is not in the training file, so it is "
      f"never predicted ({len(where)} words with it in this file)."
    )


def score_tags(gold: Tags, predicted: Tags) -> dict[str, float | None]:
  """Returns scores of whole entities, right in type and both ends, in percent.

  seqeval's default mode counts as conlleval does; on valid IOB2, as `iob.read`
  demands and `iob.repair` gives, its strict mode finds the same.

  Args:
    gold: the tags of every sentence.
    predicted: the predicted tags of the same sentences.

  Returns:
    The metrics; None for each where `gold` has no entity: whatever is
    predicted, they are not defined, or say nothing about the model.
  """
  if not has_entity(gold):
    return dict.fromkeys(METRICS)
  seqeval = load_package(SEQEVAL)
  scores = (seqeval.f1_score, seqeval.precision_score, seqeval.recall_score)
  tags = [[*own] for own in gold], [[*own] for own in predicted]
  return {
    name: 100 * float(function(*tags, zero_division=0))
    for name, function in zip(METRICS, scores, strict=True)
  }


def has_entity(tags: Tags) -> bool:
  """Returns whether there is anything to find."""
  return any(tag != OUTSIDE for sentence in tags for tag in sentence)
