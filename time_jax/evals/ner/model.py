"""Tags for words: a linear layer on the first subword of each, no CRF."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.evals.common import batches
from time_jax.evals.common.network import Network
from time_jax.evals.common.subwords import Cutter
from time_jax.evals.common.word_batches import WordBatch, WordExamples
from time_jax.evals.common.word_vectors import first_token
from time_jax.evals.ner import iob
from time_jax.evals.ner.iob import Sentence
from time_jax.models.family import Params
from time_jax.parallel import sharding


class Heads(nn.Module):
  """Everything above the encoder.

  Attributes:
    classes: how many tags.
    dropout: before the layer.
    dtype: of computation.
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
    """Scores of the tags of every word, from the last hidden state."""
    words = first_token(states[-1].astype(self.dtype), batch.word_of_token)
    words = nn.Dropout(self.dropout, deterministic=deterministic)(words)
    return nn.Dense(self.classes, dtype=self.dtype)(words).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Tagger(Network):
  """See `network.Network`.

  Attributes:
    tags: the classes of the heads.
  """

  tags: Sequence[str]

  @functools.cached_property
  def cutter(self) -> Cutter:
    """Words to tokens."""
    return Cutter(self.opened.words, self.buckets.longest)

  def annotate(
    self,
    params: Params,
    sentences: Sequence[Sentence],
    beat: Callable[[], None] = batches.silent,
  ) -> list[Sentence]:
    """The sentences with predicted tags, which are valid IOB2."""
    pieces = self.cutter.pieces([sentence.words for sentence in sentences])
    found: list[list[int]] = [[] for _ in pieces]
    examples = WordExamples(pieces, self.opened.words.pad_id)
    with sharding.use_mesh(self.mesh):
      for chosen, host in batches.in_order(examples, self.buckets, beat):
        batch = batches.place(host, self.mesh)
        numbers = np.asarray(self.program(params, batch))
        for row, i in enumerate(chosen):
          found[i] = numbers[row, : pieces[i].num_words].tolist()
    tags: list[list[str]] = [[] for _ in sentences]
    for piece, numbers in zip(pieces, found, strict=True):
      tags[piece.sentence] += [self.tags[number] for number in numbers]
    return [
      sentence.with_tags(iob.repair(raw))
      for sentence, raw in zip(sentences, tags, strict=True)
    ]

  @functools.cached_property
  def program(self) -> Callable[..., Any]:
    """(params, batch) -> the number of every word's tag, compiled."""

    @functools.partial(jax.jit, out_shardings=NamedSharding(self.mesh, P()))
    def read(params: Params, batch: WordBatch) -> Array:
      states = self.states(params, batch)
      scores: Any = self.heads.apply({"params": params["heads"]}, states, batch)
      return jnp.argmax(scores, axis=-1)

    return read
