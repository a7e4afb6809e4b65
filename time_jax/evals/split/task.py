"""`finetune split`: sentences, tokens and words of raw text."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from time_jax.evals.common.packages import UDTOOLS
from time_jax.evals.common.task import Task
from time_jax.evals.common.word_layers import smoothed_loss
from time_jax.evals.common.word_network import WordBatch, WordExamples
from time_jax.evals.split import boundaries, inner_tokens, treebank
from time_jax.evals.split.boundaries import BOUNDARY, KINDS
from time_jax.evals.split.passage import Passage, to_conllu
from time_jax.evals.split.reading import CONTEXT, STEP, Reading
from time_jax.evals.split.splitter import Splitter
from time_jax.evals.ud import conllu, raw_scores
from time_jax.evals.ud.conllu import Sentence
from time_jax.report.per_item import Ratios


def to_text(items: Sequence[Passage]) -> str:
  """Returns passages as the text of a file of CoNLL-U."""
  return conllu.to_text(_sentences(items))


class Split(Task):
  """Splitting of raw text; see `task.Task`."""

  name = "split"
  metrics = raw_scores.SPLIT
  chosen_by = ("Sentences", "Words")
  scorer = "udtools"
  ending = ".conllu"
  pipe = "< text > out.conllu"
  packages = (UDTOOLS,)
  network_class = Splitter
  read = staticmethod(treebank.read)
  to_text = staticmethod(to_text)

  def learn(self) -> dict[str, Any]:
    """Returns the widths of the heads, and the classes of atoms.

    Raises:
      UserError: see `inner_tokens.check`.
    """
    inner_tokens.check(self.data["train"])
    classes = boundaries.learn(self.data["train"])
    return {"heads": self.config.heads.to_dict(), "classes": classes}

  def make_examples(self) -> WordExamples:
    """Returns windows that begin every half of a window; see `task.Task`.

    So each atom is read with what stands before it and after it, and with
    little of either.
    """
    forms, labels = [], []
    for passage in self.data["train"]:
      reading = Reading(passage.text)
      whole = boundaries.targets(passage, reading, self.network.classes)
      size = STEP + 2 * CONTEXT
      for start in range(0, len(reading.atoms), size // 2):
        forms.append(reading.forms(start, start + size))
        labels.append({k: v[start : start + size] for k, v in whole.items()})
    chunks = self.network.tokenizer.chunks(forms, windows=True)
    targets = []
    for chunk in chunks:
      place = slice(chunk.start, chunk.start + chunk.num_words)
      own = labels[chunk.sentence]
      targets.append({k: v[place].astype(np.int32) for k, v in own.items()})
    return WordExamples(chunks, self.opened.tokenizer.pad_id, targets)

  def losses(
    self, variables: dict[str, Any], scores: dict[str, Array], batch: WordBatch
  ) -> dict[str, Array]:
    """Returns the loss of every column."""
    del variables
    smoothing = self.config.train.label_smoothing
    parts = {}
    for name, logits in scores.items():
      targets = jnp.asarray(batch.targets[name])
      possible = None
      if name == BOUNDARY:  # Only the classes of the atom's own gap.
        gap = jnp.arange(logits.shape[-1]) // len(KINDS)
        possible = gap == (targets // len(KINDS))[..., None]
      parts[name] = smoothed_loss(logits, targets, smoothing, possible)
    return parts

  def score(
    self, gold: Sequence[Passage], predicted: Sequence[Passage]
  ) -> dict[str, float]:
    """Returns F1 of tokens, sentences and words in percent, as CoNLL 2018."""
    return raw_scores.score(*map(_sentences, (gold, predicted)))

  def per_item(
    self, gold: Sequence[Passage], predicted: Sequence[Passage]
  ) -> dict[str, Ratios]:
    """Returns nothing: a passage may be a whole file."""
    del gold, predicted
    return {}


def _sentences(passages: Sequence[Passage]) -> list[Sentence]:
  return [own for passage in passages for own in to_conllu(passage)]
