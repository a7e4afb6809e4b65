"""The heads of `finetune ud`: classifiers and two biaffine layers.

Heads and relations after Dozat and Manning (arXiv 1611.01734): every word is
seen once as a dependent and once as a governor.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from time_jax.evals.common.word_layers import (
  Classifier,
  GatedLayer,
  Mix,
  mean_tokens,
)
from time_jax.evals.common.word_network import WordBatch
from time_jax.evals.ud.labels import RELATION
from time_jax.evals.ud.pair_logits import pair_logits


class Scores(NamedTuple):
  """Unnormalised scores of a batch.

  Attributes:
    tags: column -> logits of the classes of each word.
    heads: logits of the head of each word; 0 is the root.
    dependents: words as dependents, for the relations.
    governors: root and words as governors, for the relations.
  """

  tags: dict[str, Float[Array, "B W C"]]
  heads: Float[Array, "B W W+1"]
  dependents: Float[Array, "B W K"]
  governors: Float[Array, "B W+1 K"]


class ParserHeads(nn.Module):
  """Tags, heads and relations of words.

  Attributes:
    classes: (column, number of classes) of the columns to predict.
    hidden: width of the classifiers' hidden layers.
    arc: width of words in the biaffine layer of heads.
    relation: width of words in the biaffine layer of relations.
    dropout: dropout rate around hidden layers.
    dtype: dtype of computation.
  """

  classes: tuple[tuple[str, int], ...]
  hidden: int
  arc: int
  relation: int
  dropout: float
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    options = self.dropout, self.dtype
    self.tags = {
      column: Classifier(count, self.hidden, *options)
      for column, count in self.classes
      if column != RELATION
    }
    self.arc_mix, self.relation_mix = Mix(), Mix()
    self.arc_dependent = GatedLayer(self.arc, *options)
    self.arc_governor = GatedLayer(self.arc, *options)
    self.relation_dependent = GatedLayer(self.relation, *options)
    self.relation_governor = GatedLayer(self.relation, *options)
    normal = nn.initializers.lecun_normal()
    self.root = self.param("root", nn.initializers.normal(0.02), (self.arc,))
    self.root_relation = self.param(
      "root_relation", nn.initializers.normal(0.02), (self.relation,)
    )
    self.arc_kernel = self.param("arc_kernel", normal, (self.arc, self.arc))
    self.arc_bias = nn.Dense(1, dtype=self.dtype)
    relations = max(dict(self.classes).get(RELATION, 0), 1)
    self.pairs = self.param(
      "pairs",
      nn.initializers.normal(1 / self.relation),
      (relations, self.relation, self.relation),
    )
    self.singles = nn.Dense(relations, dtype=self.dtype)

  def __call__(
    self,
    states: Float[Array, "L B T D"],
    batch: WordBatch,
    deterministic: bool = True,
  ) -> Scores:
    """Returns scores from the encoder's hidden states, embeddings included."""
    words = mean_tokens(
      states.astype(self.dtype),
      batch.word_of_token,
      batch.segment_of_word.shape[1],
    )
    x, y = self.arc_mix(words), self.relation_mix(words)
    dependents = self.arc_dependent(x, deterministic)
    governors = _with_root(self.root, self.arc_governor(x, deterministic))
    kernel = self.arc_kernel.astype(self.dtype)
    arcs = jnp.einsum("biw,wv,bjv->bij", dependents, kernel, governors)
    arcs += self.arc_bias(governors)[:, None, :, 0]
    return Scores(
      {name: tag(words, deterministic) for name, tag in self.tags.items()},
      arcs.astype(jnp.float32) / self.arc**0.5,
      self.relation_dependent(y, deterministic),
      _with_root(self.root_relation, self.relation_governor(y, deterministic)),
    )

  def relations(
    self, scores: Scores, heads: Int[Array, "B W"]
  ) -> Float[Array, "B W C"]:
    """Returns logits of the relations to these heads."""
    dependents = scores.dependents
    chosen = jnp.take_along_axis(scores.governors, heads[..., None], axis=1)
    by_word = -1, self.relation
    logits = pair_logits(
      dependents.reshape(by_word),
      chosen.reshape(by_word),
      self.pairs.astype(self.dtype),
    ).reshape(*dependents.shape[:2], -1)
    logits += self.singles(jnp.concatenate([dependents, chosen], axis=-1))
    return logits.astype(jnp.float32)

  def everything(self, states: Array, batch: WordBatch) -> Array:
    """Uses every parameter, in order to initialise all of them."""
    scores = self(states, batch)
    return self.relations(scores, jnp.zeros_like(batch.segment_of_word))


def _with_root(
  root: Float[Array, " F"], words: Float[Array, "B W F"]
) -> Float[Array, "B W+1 F"]:
  first = jnp.broadcast_to(
    root.astype(words.dtype), (words.shape[0], 1, words.shape[2])
  )
  return jnp.concatenate([first, words], axis=1)


def possible_heads(batch: WordBatch) -> Bool[Array, "B W W+1"]:
  """Returns a mask: a word's head is the root, or another of its document."""
  segments = jnp.asarray(batch.segment_of_word)
  real = (segments > 0)[:, :, None]
  same = segments[:, :, None] == segments[:, None]
  other = ~jnp.eye(segments.shape[1], dtype=bool)[None]
  return jnp.concatenate([real, real & same & other], axis=-1)
