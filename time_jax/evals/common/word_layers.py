"""Layers that turn hidden states into labels of words, and their loss."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.core.arrays import Ids
from time_jax.models.dropout import Dropout
from time_jax.models.layers import gelu


def mean_tokens(
  states: Float[Array, "L B T D"], word_of_token: Ids, num_words: int
) -> Float[Array, "L B W D"]:
  """Returns the mean over the tokens of each word; 0 for no word.

  Args:
    states: hidden states of all layers.
    word_of_token: the word of each token in its row, from 1; 0: of none.
    num_words: W, at least the words of any row.
  """
  owner_BTW = jax.nn.one_hot(word_of_token - 1, num_words, dtype=states.dtype)
  count_BW1 = jnp.maximum(jnp.sum(owner_BTW, axis=1), 1)[..., None]
  # Layer by layer: one product for all of them would copy the states first.
  return jnp.stack([owner_BTW.mT @ x_BTD / count_BW1 for x_BTD in states])


def first_token(
  states: Float[Array, "B T D"], word_of_token: Ids, num_words: int
) -> Float[Array, "B W D"]:
  """Returns the first token of each word; arbitrary for no word.

  Args:
    states: hidden states of a layer.
    word_of_token: see `mean_tokens`.
    num_words: W, see `mean_tokens`.
  """
  numbers = jnp.arange(1, num_words + 1)
  owner_BWT = word_of_token[:, None, :] == numbers[None, :, None]
  first_BW = jnp.argmax(owner_BWT, axis=-1)
  return jnp.take_along_axis(states, first_BW[..., None], axis=1)


class Mix(nn.Module):
  """A learned mean of the layers, its weights a softmax."""

  @nn.compact
  def __call__(self, x: Float[Array, "L B W D"]) -> Float[Array, "B W D"]:
    """Returns the mean, at first with equal weights."""
    weights = self.param("weights", nn.initializers.zeros, (x.shape[0],))
    weights = jax.nn.softmax(weights).astype(x.dtype)
    return jnp.einsum("l,lbwd->bwd", weights, x)


class GatedLayer(nn.Module):
  """GEGLU (arXiv 2002.05202), LayerNorm and dropout.

  Attributes:
    features: width of the output.
    dropout: dropout rate before and after it.
    dtype: dtype of computation.
  """

  features: int
  dropout: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: Float[Array, "B W D"], deterministic: bool
  ) -> Float[Array, "B W F"]:
    """Applies the layer to each word."""
    drop = functools.partial(Dropout(self.dropout), deterministic=deterministic)
    both = nn.Dense(2 * self.features, dtype=self.dtype)(drop(x))
    gate, value = jnp.split(both, 2, axis=-1)
    return drop(nn.LayerNorm(dtype=self.dtype)(gelu(gate) * value))


class Classifier(nn.Module):
  """Logits of a word's classes, in float32, on a mix of its own.

  Attributes:
    classes: number of classes.
    features: width of the hidden layer.
    dropout: dropout rate around the hidden layer.
    dtype: dtype of computation.
  """

  classes: int
  features: int
  dropout: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, words: Float[Array, "L B W D"], deterministic: bool
  ) -> Float[Array, "B W classes"]:
    """Applies the classifier to the words in every layer."""
    x = Mix()(words)
    x = GatedLayer(self.features, self.dropout, self.dtype)(x, deterministic)
    return nn.Dense(self.classes, dtype=self.dtype)(x).astype(jnp.float32)


def smoothed_loss(
  logits: Float[Array, "B W C"],
  targets: Ids,
  smoothing: float,
  possible: Array | None = None,
) -> Float[Array, ""]:
  """Returns the mean cross-entropy with label smoothing over targets.

    (1 - e) * -log p(target) + e * mean over the classes of -log p(class)

  Args:
    logits: unnormalised scores, float32.
    targets: number of the right class; -1: none, and it does not count.
    smoothing: e.
    possible: bool, of the shape of `logits`: which classes there are.
  """
  if possible is not None:
    logits = jnp.where(possible, logits, -1e9)
  log_p = jax.nn.log_softmax(logits)
  wanted = jnp.maximum(targets, 0)[..., None]
  hit = jnp.take_along_axis(log_p, wanted, axis=-1)[..., 0]
  if possible is None:
    spread = jnp.mean(log_p, axis=-1)
  else:
    count = jnp.maximum(jnp.sum(possible, axis=-1), 1)
    spread = jnp.sum(jnp.where(possible, log_p, 0), axis=-1) / count
  loss = -(1 - smoothing) * hit - smoothing * spread
  counts = targets >= 0
  total = jnp.sum(jnp.where(counts, loss, 0))
  return total / jnp.maximum(jnp.sum(counts), 1)
