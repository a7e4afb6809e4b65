"""`finetune ner`: named entities, as IOB2 tags of words."""

import collections
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from time_jax.core.errors import UserError
from time_jax.evals.common import finetuning
from time_jax.evals.common.batches import Buckets
from time_jax.evals.common.encoders import Opened
from time_jax.evals.common.task import SPLITS, Task
from time_jax.evals.common.word_batches import WordBatch, WordExamples
from time_jax.evals.common.word_vectors import smoothed_loss
from time_jax.evals.ner import iob, parquet_tags, scoring
from time_jax.evals.ner.iob import OUTSIDE, Sentence
from time_jax.evals.ner.model import Heads, Tagger

_TAG = "TAG"


def finetune_ner(
  config: ConfigDict, workdir: pathlib.Path, typed: Collection[str] = ()
) -> int:
  """See `finetuning.finetune`; config: see `recipe.ner_config`."""
  return finetuning.finetune(config, workdir, Ner, typed)


class Ner(Task):
  """See `task.Task`."""

  name = "ner"
  metrics = scoring.METRICS
  scorer = "seqeval"
  ending = ".iob2"
  pipe = "< text > out.iob2"

  def __init__(
    self,
    config: ConfigDict,
    data: Mapping[str, Sequence[Sentence]],
    opened: Opened,
    buckets: Buckets,
    mesh: Mesh,
  ) -> None:
    """Learns the tags of the training file and cuts it into pieces."""
    super().__init__(config, data, opened, buckets, mesh)
    tags = learn(data["train"])
    for split in SPLITS[1:]:
      if split in data:
        check_entities(split, data[split])
        if jax.process_index() == 0:
          note_unknown(data[split], tags)
    self.network = make_tagger(
      opened, tags, buckets, mesh, config.train.dropout, config.train.dtype
    )
    self.heads = self.network.heads
    words = [sentence.words for sentence in data["train"]]
    pieces = self.network.cutter.pieces(words)
    number = {tag: i for i, tag in enumerate(tags)}
    whole = [
      np.array([number[tag] for tag in sentence.tags], np.int32)
      for sentence in data["train"]
    ]
    targets = [
      {_TAG: whole[p.sentence][p.start : p.start + p.num_words]} for p in pieces
    ]
    self.examples = WordExamples(pieces, opened.words.pad_id, targets)

  @staticmethod
  def load_libraries() -> None:
    """The scorer."""
    scoring.load_scorer()

  @staticmethod
  def read(path: pathlib.Path) -> list[Sentence]:
    """The sentences of a file of IOB2, or of parquet."""
    reader = parquet_tags if path.suffix == ".parquet" else iob
    return reader.read(path)

  def losses(
    self, variables: dict, states: Array, batch: WordBatch, rng: Array
  ) -> dict[str, Array]:
    """Cross-entropy over the tags."""
    scores: Any = self.heads.apply(
      variables, states, batch, deterministic=False, rngs={"dropout": rng}
    )
    smoothing = self.config.train.label_smoothing
    return {_TAG: smoothed_loss(scores, batch.targets[_TAG], smoothing)}

  def score(
    self, split: str, found: Sequence[Sentence]
  ) -> dict[str, float | None]:
    """Those of seqeval, against the file."""
    gold = [list(sentence.tags) for sentence in self.data[split]]
    return scoring.score(gold, [list(sentence.tags) for sentence in found])

  def quality(self, scores: Mapping[str, Any]) -> float:
    """Entity F1, as the reference chooses by."""
    return scores["F1"]

  def to_text(self, found: Sequence[Sentence]) -> str:
    """IOB2, with the columns of the file."""
    return iob.to_text(found)

  def record(self) -> dict[str, Any]:
    """The tags."""
    return {"heads": {}, "classes": {_TAG: list(self.network.tags)}}


def make_tagger(
  opened: Opened,
  tags: Sequence[str],
  buckets: Buckets,
  mesh: Mesh,
  dropout: float = 0.0,
  dtype: Any = "float32",
) -> Tagger:
  """The model for an encoder, without parameters.

  Args:
    opened: the encoder.
    tags: the classes.
    buckets: the shapes of batches.
    mesh: the devices.
    dropout: above the encoder.
    dtype: of computation.
  """
  heads = Heads(len(tags), dropout, jnp.dtype(dtype))
  return Tagger(opened, heads, buckets, mesh, tuple(tags))


def from_record(
  opened: Opened, record: Mapping[str, Any], buckets: Buckets, mesh: Mesh
) -> Tagger:
  """The same for what task.json says; see `Ner.record`."""
  return make_tagger(opened, record["classes"][_TAG], buckets, mesh)


def learn(sentences: Sequence[Sentence]) -> list[str]:
  """The tags of a training file, common ones first.

  Raises:
    UserError: there is no entity in it.
  """
  counts = collections.Counter(
    tag for sentence in sentences for tag in sentence.tags
  )
  if set(counts) == {OUTSIDE}:
    raise UserError(
      f"{sentences[0].name}: all tags are {OUTSIDE}; expected a training file "
      "with entities (B-TYPE, I-TYPE)."
    )
  return sorted(counts, key=lambda tag: (-counts[tag], tag))


def check_entities(split: str, sentences: Sequence[Sentence]) -> None:
  """Says what follows where a dev or test file has no entity.

  Raises:
    UserError: it is dev, by which the best epoch is to be chosen.
  """
  if scoring.has_entity([sentence.tags for sentence in sentences]):
    return
  name = sentences[0].name
  if split == "dev":
    raise UserError(
      f"{name}: all tags are {OUTSIDE}, so F1 is undefined and no epoch can be "
      "chosen by it; expected a dev file with entities, such as some sentences "
      "of the training file that are left out of it."
    )
  if jax.process_index() == 0:
    print(
      f"time_jax: note: {name}: all tags are {OUTSIDE}, so the scores of "
      f"{split} are undefined.",
      file=sys.stderr,
    )


def note_unknown(sentences: Sequence[Sentence], tags: Sequence[str]) -> None:
  """Says which tags can never be right, with the line of the first of each."""
  strange: dict[str, list[str]] = {}
  for sentence in sentences:
    for i, tag in enumerate(sentence.tags):
      if tag not in tags:
        strange.setdefault(tag, []).append(sentence.place(i))
  for tag, places in strange.items():
    print(
      f"time_jax: note: {places[0]}: the tag {tag!r} is not in the training "
      f"file, so it is never predicted ({len(places)} words with it in this "
      "file).",
      file=sys.stderr,
    )
