"""`finetune ud`: tags, lemmas and trees of Universal Dependencies."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from time_jax.evals.common.packages import UDTOOLS
from time_jax.evals.common.task import SPLITS, Task
from time_jax.evals.common.word_layers import smoothed_loss
from time_jax.evals.common.word_network import WordBatch, WordExamples
from time_jax.evals.ud import breakdown, conllu, labels, scoring
from time_jax.evals.ud.annotator import Annotator, chunk_targets
from time_jax.evals.ud.heads import Scores, possible_heads
from time_jax.evals.ud.labels import RELATION


class Ud(Task):
  """Tagging and parsing of Universal Dependencies; see `task.Task`."""

  name = "ud"
  metrics = scoring.METRICS
  chosen_by = ("MLAS", "BLEX")  # as the reference stops by
  scorer = "udtools"
  ending = ".conllu"
  pipe = "< text > out.conllu"
  packages = (UDTOOLS,)
  network_class = Annotator
  read = staticmethod(conllu.read)
  to_text = staticmethod(conllu.to_text)
  score = staticmethod(scoring.score)
  per_item = staticmethod(scoring.per_item)
  breakdown = staticmethod(breakdown.count)

  def learn(self) -> dict[str, Any]:
    """Returns the widths of the heads, and the classes of every column."""
    classes = labels.learn(self.data["train"])
    for split in SPLITS[1:]:
      if split in self.data:
        scoring.check(self.data[split])
        if jax.process_index() == 0:
          labels.note_unknown(self.data[split], classes)
    return {"heads": self.config.heads.to_dict(), "classes": classes}

  def make_examples(self) -> WordExamples:
    """See `task.Task`."""
    sentences = self.data["train"]
    forms = [sentence.column("FORM") for sentence in sentences]
    chunks = self.network.tokenizer.chunks(forms)
    targets = chunk_targets(chunks, sentences, self.network.classes)
    pad_id = self.opened.tokenizer.pad_id
    return WordExamples(chunks, pad_id, targets, columns=("HEAD",))

  def losses(
    self, variables: dict[str, Any], scores: Scores, batch: WordBatch
  ) -> dict[str, Array]:
    """Returns the loss of every column; relations are those to right heads."""
    smoothing, targets = self.config.train.label_smoothing, batch.targets
    heads = targets["HEAD"]
    parts = {
      name: smoothed_loss(logits, targets[name], smoothing)
      for name, logits in scores.tags.items()
    }
    parts["HEAD"] = smoothed_loss(
      scores.heads, heads, smoothing, possible_heads(batch)
    )
    if RELATION in targets:
      logits: Any = self.network.heads.apply(
        variables, scores, jnp.maximum(heads, 0), method="relations"
      )
      known = jnp.where(heads >= 0, targets[RELATION], -1)
      parts[RELATION] = smoothed_loss(logits, known, smoothing)
    return parts
