"""The network of `finetune ner`: a tag for the first token of each word."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from time_jax.evals.common.engine import Engine, Work
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.task import FIRST, Beat
from time_jax.evals.common.word_layers import first_token
from time_jax.evals.common.word_network import WordBatch, WordNetwork
from time_jax.evals.ner import iob, onnx_head
from time_jax.evals.ner.iob import Sentence
from time_jax.models.dropout import Dropout
from time_jax.models.family import Params

TAG = "TAG"  # name of the labels


class TagHead(nn.Module):
  """Dropout and a linear layer.

  Attributes:
    classes: number of tags.
    dropout: dropout rate before the layer.
    dtype: dtype of computation.
  """

  classes: int
  dropout: float
  dtype: DTypeLike = jnp.dtype("float32")

  @nn.compact
  def __call__(
    self,
    states: Float[Array, "L B T D"],
    batch: WordBatch,
    deterministic: bool = True,
  ) -> Float[Array, "B W C"]:
    """Returns logits of the tags of each word, from the last hidden state."""
    words = first_token(
      states[-1].astype(self.dtype),
      batch.word_of_token,
      batch.segment_of_word.shape[1],
    )
    words = Dropout(self.dropout)(words, deterministic=deterministic)
    return nn.Dense(self.classes, dtype=self.dtype)(words).astype(jnp.float32)


class Tagger(WordNetwork):
  """Tags the words of sentences."""

  @property
  def tags(self) -> Sequence[str]:
    """The tags, by number."""
    return self.spec["classes"][TAG]

  @property
  def heads(self) -> TagHead:
    """See `task.Network`."""
    return TagHead(len(self.tags), self.dropout, jnp.dtype(self.dtype))

  @property
  def programs(self) -> dict[str, Callable[..., Any]]:
    """See `task.Network`."""
    return {FIRST: self.outputs}

  def graphs(self, params: Params) -> dict[str, Program]:
    """See `task.Network`."""
    config = self.opened.config
    return {FIRST: onnx_head.first_program(config, params, TAG)}

  def outputs(
    self, params: Params, batch: WordBatch
  ) -> dict[str, Int[Array, "B W"]]:
    """Returns the number of each word's tag."""
    return {TAG: jnp.argmax(self.scores(params, batch), axis=-1)}

  def prepare(self, items: Sequence[Sentence]) -> Work:
    """See `task.Network`."""
    return self.prepare_words(items, [item.words for item in items])

  def finish(self, engine: Engine, work: Work, beat: Beat) -> list[Sentence]:
    """Returns the sentences with predicted tags, which are valid IOB2."""
    tags: list[list[str]] = [[] for _ in work.items]
    for chunk, labels in self.label(engine, work, beat):
      tags[chunk.sentence] += [self.tags[number] for number in labels[TAG]]
    pairs = zip(work.items, tags, strict=True)
    return [sentence.with_tags(iob.repair(raw)) for sentence, raw in pairs]
