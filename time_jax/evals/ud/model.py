"""The joint model of Universal Dependencies: classifiers and two biaffines.

Heads and relations after Dozat and Manning (arXiv 1611.01734): every word is
seen once as a dependent and once as a head.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from time_jax.evals.common.word_batches import WordBatch
from time_jax.evals.common.word_vectors import (
  Classifier,
  GatedLayer,
  Mix,
  pool,
  smoothed_loss,
)
from time_jax.evals.ud.labels import RELATION


class Output(NamedTuple):
  """What the model says of a batch, unnormalised.

  Attributes:
    tags: column -> scores of the classes of every word.
    heads: scores of the heads of every word; 0 is the root.
    dependents: words as dependents, for the relations.
    governors: root and words as heads, for the relations.
  """

  tags: dict[str, Float[Array, "B W C"]]
  heads: Float[Array, "B W W+1"]
  dependents: Float[Array, "B W K"]
  governors: Float[Array, "B W+1 K"]


class Heads(nn.Module):
  """Everything above the encoder.

  Attributes:
    classes: (column, how many) of the columns to predict.
    hidden: width of the classifiers' hidden layers.
    arc: width of words in the biaffine of heads.
    relation: width of words in the biaffine of relations.
    dropout: around hidden layers.
    dtype: of computation.
  """

  classes: tuple[tuple[str, int], ...]
  hidden: int
  arc: int
  relation: int
  dropout: float
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    how = self.dropout, self.dtype
    self.tags = {
      column: Classifier(count, self.hidden, *how)
      for column, count in self.classes
      if column != RELATION
    }
    self.arc_mix, self.relation_mix = Mix(), Mix()
    self.arc_dependent = GatedLayer(self.arc, *how)
    self.arc_governor = GatedLayer(self.arc, *how)
    self.relation_dependent = GatedLayer(self.relation, *how)
    self.relation_governor = GatedLayer(self.relation, *how)
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
  ) -> Output:
    """From the hidden states of the encoder, embeddings included."""
    words = pool(states.astype(self.dtype), batch.word_of_token)
    x, y = self.arc_mix(words), self.relation_mix(words)
    dependents = self.arc_dependent(x, deterministic)
    governors = _with_root(self.root, self.arc_governor(x, deterministic))
    kernel = self.arc_kernel.astype(self.dtype)
    scores = jnp.einsum("biw,wv,bjv->bij", dependents, kernel, governors)
    scores += self.arc_bias(governors)[:, None, :, 0]
    return Output(
      {name: tag(words, deterministic) for name, tag in self.tags.items()},
      scores.astype(jnp.float32) / self.arc**0.5,
      self.relation_dependent(y, deterministic),
      _with_root(self.root_relation, self.relation_governor(y, deterministic)),
    )

  def relations(
    self, output: Output, heads: Int[Array, "B W"]
  ) -> Float[Array, "B W C"]:
    """Scores of the relations to these heads."""
    dependents = output.dependents
    chosen = jnp.take_along_axis(output.governors, heads[..., None], axis=1)
    pairs = self.pairs.astype(self.dtype)
    scores = jnp.einsum("bwk,ckl,bwl->bwc", dependents, pairs, chosen)
    scores += self.singles(jnp.concatenate([dependents, chosen], axis=-1))
    return scores.astype(jnp.float32)

  def everything(self, states: Array, batch: WordBatch) -> Array:
    """Touches every parameter; what fresh weights are initialised with."""
    output = self(states, batch)
    return self.relations(output, jnp.zeros_like(batch.word_of_token))


def _with_root(
  root: Float[Array, " F"], words: Float[Array, "B W F"]
) -> Float[Array, "B W+1 F"]:
  first = jnp.broadcast_to(
    root.astype(words.dtype), (words.shape[0], 1, words.shape[2])
  )
  return jnp.concatenate([first, words], axis=1)


def possible_heads(batch: WordBatch) -> Bool[Array, "B W W+1"]:
  """Root and the other words of the row, for each of its words."""
  width = batch.word_of_token.shape[1]
  numbers = jnp.arange(width + 1)
  real = numbers[None] <= batch.num_words[:, None]
  other = numbers[None, 1:, None] != numbers[None, None]
  return real[:, None, :] & real[:, 1:, None] & other


def losses(
  heads: Heads,
  variables: dict,
  output: Output,
  batch: WordBatch,
  smoothing: float,
) -> dict[str, Float[Array, ""]]:
  """The loss of every column; a relation's is that to the right head.

  Args:
    heads: the model.
    variables: its parameters, as `apply` takes them.
    output: of the model.
    batch: with targets.
    smoothing: of the labels.
  """
  wanted = batch.targets
  found = {
    name: smoothed_loss(scores, wanted[name], smoothing)
    for name, scores in output.tags.items()
  }
  found["HEAD"] = smoothed_loss(
    output.heads, wanted["HEAD"], smoothing, possible_heads(batch)
  )
  if RELATION in wanted:
    scores: Any = heads.apply(
      variables, output, jnp.maximum(wanted["HEAD"], 0), method="relations"
    )
    counts = jnp.where(wanted["HEAD"] >= 0, wanted[RELATION], -1)
    found[RELATION] = smoothed_loss(scores, counts, smoothing)
  return found
