"""A small BERT that is hidden in a wide one, which computes the same."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from time_jax.models import bert
from time_jax.models.family import init_params

SMALL = bert.BertConfig(
  vocab_size=40,
  hidden_size=16,
  num_layers=4,
  num_heads=2,
  intermediate_size=24,
  max_positions=12,
)


def random_params(shape, seed):
  """Returns parameters of every kind that are far from their defaults."""
  encoder = bert.Encoder(shape, shape.num_layers)
  fresh = nn.meta.unbox(
    jax.jit(init_params, static_argnums=0)(encoder, jax.random.key(seed))
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), fresh
  )


def constant_scales(params, seed):
  """Returns the parameters with one number as the scale of each LayerNorm."""
  rng = np.random.default_rng(seed)

  def one(path, leaf):
    if path[-1].key != "scale":
      return leaf
    size = (*leaf.shape[:-1], 1)
    return np.broadcast_to(rng.uniform(0.5, 2, size), leaf.shape).astype(
      np.float32
    )

  return jax.tree.map_with_path(one, params)


def rotation(wide, narrow, seed):
  """Returns orthonormal columns that keep the ones: E 1 = sqrt(d / D) 1."""
  rng = np.random.default_rng(seed)
  ones = np.full((wide, 1), wide**-0.5)
  outer = np.linalg.qr(np.hstack([ones, rng.normal(size=(wide, narrow - 1))]))[
    0
  ]
  ones = np.full((narrow, 1), narrow**-0.5)
  inner = np.linalg.qr(
    np.hstack([ones, rng.normal(size=(narrow, narrow - 1))])
  )[0]
  outer *= np.sign(outer[0, 0])
  inner *= np.sign(inner[0, 0])
  return outer @ inner.T


def hide(params, shape, e, num_heads, units, seed=5):
  """Returns a wide network whose states are those of a small one times E'.

  Args:
    params: of the small network, with `constant_scales`.
    shape: its sizes.
    e: E [D, d].
    num_heads: of the wide network; those that the small one does not have do
      nothing, and come first.
    units: of its feed-forward layers; the same for them.
    seed: of what does nothing.
  """
  wide = len(e)
  rng = np.random.default_rng(seed)
  head_dim, small = wide // num_heads, shape.head_dim
  factor = (head_dim / small) ** 0.25
  first = num_heads - shape.num_heads
  turns = []
  for _ in range(2):  # of queries and keys, of values
    turn = np.zeros((wide, shape.hidden_size))
    for head in range(shape.num_heads):
      own = np.linalg.qr(rng.normal(size=(head_dim, small)))[0]
      rows = slice((first + head) * head_dim, (first + head + 1) * head_dim)
      turn[rows, head * small : (head + 1) * small] = own
    turns.append(turn)
  idle = ~turns[0].any(1)

  def dense(layer, before, after, idle=None):
    kernel = before @ layer["kernel"] @ after
    bias = layer["bias"] @ after
    if idle is not None:
      kernel[..., idle] = rng.normal(size=(*kernel.shape[:-1], idle.sum()))
      bias[..., idle] = rng.normal(size=(*bias.shape[:-1], idle.sum()))
    return {"kernel": kernel, "bias": bias}

  def norm(layer):
    scale = layer["scale"][..., :1] * np.sqrt(shape.hidden_size / wide)
    return {
      "scale": np.repeat(scale, wide, -1),
      "bias": layer["bias"] @ e.T,
    }

  more = units - shape.intermediate_size
  pad = np.eye(units)[more:]

  def block(own):
    qk, v = turns
    return {
      "query": dense(own["query"], e, factor * qk.T, idle),
      "key": dense(own["key"], e, factor * qk.T, idle),
      "value": dense(own["value"], e, factor * v.T, idle),
      "attention_out": dense(own["attention_out"], v / factor, e.T),
      "attention_norm": norm(own["attention_norm"]),
      "ffn_in": dense(own["ffn_in"], e, pad, ~pad.any(0)),
      "ffn_out": dense(own["ffn_out"], pad.T, e.T),
      "ffn_norm": norm(own["ffn_norm"]),
    }

  embeddings = {
    name: {"embedding": params["embeddings"][name]["embedding"] @ e.T}
    for name in ("word", "position", "token_type")
  }
  tree = {
    "embeddings": embeddings | {"norm": norm(params["embeddings"]["norm"])},
    "layers": block(params["layers"]),
    "last": block(params["last"]),
  }
  hidden = dataclasses.replace(
    shape, hidden_size=wide, num_heads=num_heads, intermediate_size=units
  )
  return jax.tree.map(lambda x: np.asarray(x, np.float32), tree), hidden
