"""The network of `finetune split`: where tokens and sentences begin."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.evals.common.engine import Engine, Work
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.task import FIRST, Beat
from time_jax.evals.common.word_layers import Classifier, mean_tokens
from time_jax.evals.common.word_network import WordBatch, WordNetwork
from time_jax.evals.split import onnx_heads
from time_jax.evals.split.boundaries import (
  BOUNDARY,
  KINDS,
  WORDS,
  Classes,
  assemble,
  check,
)
from time_jax.evals.split.passage import Passage
from time_jax.evals.split.reading import GAPS, Reading, forms_of_windows, join
from time_jax.models.family import Params


class SplitHeads(nn.Module):
  """Classifiers of atoms; see `boundaries`.

  Attributes:
    classes: (name, number of classes).
    hidden: width of the classifiers' hidden layers.
    dropout: dropout rate around hidden layers.
    dtype: dtype of computation.
  """

  classes: tuple[tuple[str, int], ...]
  hidden: int
  dropout: float
  dtype: DTypeLike = jnp.dtype("float32")

  @nn.compact
  def __call__(
    self,
    states: Float[Array, "L B T D"],
    batch: WordBatch,
    deterministic: bool = True,
  ) -> dict[str, Float[Array, "B W C"]]:
    """Returns logits from the encoder's hidden states, embeddings included."""
    words = mean_tokens(
      states.astype(self.dtype),
      batch.word_of_token,
      batch.segment_of_word.shape[1],
    )
    return {
      name: Classifier(
        count, self.hidden, self.dropout, self.dtype, name=f"tags_{name}"
      )(words, deterministic)
      for name, count in self.classes
    }


class Splitter(WordNetwork):
  """Splits passages into sentences, tokens and words."""

  @functools.cached_property
  def classes(self) -> Classes:
    """The classes of atoms; see `boundaries.check` for what it raises."""
    classes = self.spec["classes"]
    check(classes)
    return classes

  @property
  def heads(self) -> SplitHeads:
    """See `task.Network`."""
    sizes = [(BOUNDARY, GAPS * len(KINDS))]
    if self.classes[WORDS]:
      sizes.append((WORDS, len(self.classes[WORDS])))
    return SplitHeads(
      classes=tuple(sizes),
      dropout=self.dropout,
      dtype=jnp.dtype(self.dtype),
      **self.spec["heads"],
    )

  @property
  def programs(self) -> dict[str, Callable[..., Any]]:
    """See `task.Network`."""
    return {FIRST: self.outputs}

  def graphs(self, params: Params) -> dict[str, Program]:
    """See `task.Network`."""
    columns = [name for name, _ in self.heads.classes]
    config = self.opened.config
    return {FIRST: onnx_heads.first_program(columns, config, params)}

  def outputs(self, params: Params, batch: WordBatch) -> dict[str, Array]:
    """Returns what `boundaries.assemble` takes of each atom."""
    scores = dict(self.scores(params, batch))
    kinds = scores.pop(BOUNDARY)
    kinds = kinds.reshape(*kinds.shape[:2], GAPS, len(KINDS))
    found = {name: jnp.argmax(x, axis=-1) for name, x in scores.items()}
    return {BOUNDARY: kinds, **found}

  def prepare(self, items: Sequence[Passage]) -> Work:
    """See `task.Network`."""
    readings = [Reading(item.text) for item in items]
    forms = forms_of_windows(readings)
    return self.prepare_words(readings, forms, windows=True)

  def finish(self, engine: Engine, work: Work, beat: Beat) -> list[Passage]:
    """Returns the passages with predicted sentences."""
    found = join(work.items, self.label(engine, work, beat))
    return [
      Passage(reading.text, assemble(reading, labels, self.classes))
      for reading, labels in zip(work.items, found, strict=True)
    ]
