"""`finetune ud`: tags, lemmas and trees of Universal Dependencies."""

import pathlib
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
from time_jax.evals.common.task import SPLITS, Task
from time_jax.evals.common.word_batches import WordBatch, WordExamples
from time_jax.evals.ud import breakdown as ud_breakdown
from time_jax.evals.ud import conllu, labels, scoring
from time_jax.evals.ud.annotator import Annotator, piece_targets
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.model import Heads, losses
from time_jax.evals.ud.trees import load_library


def finetune_ud(
  config: ConfigDict, workdir: pathlib.Path, typed: Collection[str] = ()
) -> int:
  """See `finetuning.finetune`; config: see `recipe.ud_config`."""
  return finetuning.finetune(config, workdir, Ud, typed)


class Ud(Task):
  """See `task.Task`."""

  name = "ud"
  metrics = scoring.METRICS
  scorer = "udtools"
  ending = ".conllu"
  pipe = "< text > out.conllu"
  touch = "everything"

  def __init__(
    self,
    config: ConfigDict,
    data: Mapping[str, Sequence[Sentence]],
    opened: Opened,
    buckets: Buckets,
    mesh: Mesh,
  ) -> None:
    """Learns the classes of the training file and cuts it into pieces."""
    super().__init__(config, data, opened, buckets, mesh)
    vocabulary = labels.learn(data["train"])
    for split in SPLITS[1:]:
      if split in data:
        scoring.check(data[split])
        if jax.process_index() == 0:
          labels.note_unknown(data[split], vocabulary)
    self.network = make_annotator(
      opened,
      vocabulary,
      config.heads.to_dict(),
      buckets,
      mesh,
      config.train.dropout,
      config.train.dtype,
    )
    self.heads = self.network.heads
    forms = [sentence.column("FORM") for sentence in data["train"]]
    pieces = self.network.cutter.pieces(forms)
    targets = piece_targets(pieces, data["train"], vocabulary)
    self.examples = WordExamples(pieces, opened.words.pad_id, targets)

  @staticmethod
  def load_libraries() -> None:
    """The tree search and the scorer."""
    load_library()
    scoring.load_scorer()

  @staticmethod
  def read(path: pathlib.Path) -> list[Sentence]:
    """The sentences of a CoNLL-U file."""
    return conllu.read(path)

  def losses(
    self, variables: dict, states: Array, batch: WordBatch, rng: Array
  ) -> dict[str, Array]:
    """Of every column."""
    output: Any = self.heads.apply(
      variables, states, batch, deterministic=False, rngs={"dropout": rng}
    )
    smoothing = self.config.train.label_smoothing
    return losses(self.heads, variables, output, batch, smoothing)

  def score(self, split: str, found: Sequence[Sentence]) -> dict[str, float]:
    """Those of udtools, against the file's sentences."""
    return scoring.score(self.data[split], found)

  def breakdown(self, split: str, found: Sequence[Sentence]) -> dict[str, Any]:
    """See `ud_breakdown.count`."""
    return ud_breakdown.count(self.data[split], found)

  def quality(self, scores: Mapping[str, float]) -> float:
    """MLAS + BLEX, as the reference stops by."""
    return scores["MLAS"] + scores["BLEX"]

  def to_text(self, found: Sequence[Sentence]) -> str:
    """CoNLL-U."""
    return conllu.to_text(found)

  def record(self) -> dict[str, Any]:
    """Widths and classes."""
    return {
      "heads": self.config.heads.to_dict(),
      "classes": dict(self.network.vocabulary),
    }


def make_annotator(
  opened: Opened,
  vocabulary: labels.Vocabulary,
  widths: Mapping[str, int],
  buckets: Buckets,
  mesh: Mesh,
  dropout: float = 0.0,
  dtype: Any = "float32",
) -> Annotator:
  """The model for an encoder, without parameters.

  Args:
    opened: the encoder.
    vocabulary: the classes of every column.
    widths: hidden, arc and relation.
    buckets: the shapes of batches.
    mesh: the devices.
    dropout: above the encoder.
    dtype: of computation.
  """
  sizes = {name: len(names) for name, names in vocabulary.items() if names}
  heads = Heads(
    classes=tuple(sizes.items()),
    dropout=dropout,
    dtype=jnp.dtype(dtype),
    hidden=widths["hidden"],
    arc=widths["arc"],
    relation=widths["relation"],
  )
  return Annotator(opened, heads, buckets, mesh, vocabulary)


def from_record(
  opened: Opened, record: Mapping[str, Any], buckets: Buckets, mesh: Mesh
) -> Annotator:
  """The same for what task.json says; see `Ud.record`."""
  return make_annotator(
    opened, record["classes"], record["heads"], buckets, mesh
  )
