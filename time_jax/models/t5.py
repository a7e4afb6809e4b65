"""The encoders of T5, T5 v1.1 and mT5.

Pre-norm blocks with RMSNorm, no biases, unscaled scores and a bias on them
that depends on the distance alone and is shared by all blocks (Raffel et al.,
arXiv 1910.10683; Xue et al., arXiv 2010.11934).

T5 keeps 1/sqrt(H) inside its query weights: its queries are about sqrt(H)
times smaller than BERT's, and their relations close to uniform.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, relative
from time_jax.models.attention import attend
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Shape of an encoder of this family.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: blocks of the complete encoder.
    num_heads: attention heads N.
    head_dim: H; N x H may differ from D.
    intermediate_size: F.
    activation: a key of `layers.ACTIVATIONS`.
    gated: whether the feed-forward has a linear gate.
    num_buckets: relative positions of both signs.
    max_distance: distances from here on share the last bucket.
    layer_norm_eps: epsilon of every RMSNorm.
    initializer_range: standard deviation of fresh weights.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  head_dim: int
  intermediate_size: int
  activation: str = "relu"
  gated: bool = False
  num_buckets: int = 32
  max_distance: int = 128
  layer_norm_eps: float = 1e-6
  initializer_range: float = 0.02

  max_positions = None  # Any length: distances are all there is.

  @property
  def inner_size(self) -> int:
    """Width of the heads together."""
    return self.num_heads * self.head_dim

  @property
  def widths(self) -> dict[str, int]:
    """Of the three projections."""
    return dict.fromkeys(("query", "key", "value"), self.inner_size)


def parse_config(hf: Mapping[str, Any]) -> T5Config:
  """Reads a Hugging Face config.json (transformers 4.x or 5.x)."""
  projection = hf.get("feed_forward_proj", "relu")
  gate, _, activation = projection.rpartition("-")
  if gate == "gated" and activation == "gelu":
    activation = "gelu_new"  # What the name has always meant here.
  if gate not in ("", "gated") or activation not in layers.ACTIVATIONS:
    raise UserError(
      f"feed_forward_proj={projection!r} is unknown; expected an activation "
      f"({', '.join(layers.ACTIVATIONS)}), 'gated-' before it or not."
    )
  return T5Config(
    vocab_size=hf["vocab_size"],
    hidden_size=hf["d_model"],
    num_layers=hf["num_layers"],
    num_heads=hf["num_heads"],
    head_dim=hf["d_kv"],
    intermediate_size=hf["d_ff"],
    activation=activation,
    gated=gate == "gated",
    num_buckets=hf.get("relative_attention_num_buckets", 32),
    max_distance=hf.get("relative_attention_max_distance", 128),
    layer_norm_eps=hf.get("layer_norm_epsilon", 1e-6),
  )


class Shared(NamedTuple):
  """What all blocks use: scores of the distances, and the mask."""

  bias: Float[Array, "1 N T T"]
  mask: Bool[Array, "B 1 T T"]


class Block(nn.Module):
  """One pre-norm block."""

  config: T5Config
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how: Any = dict(
      stddev=c.initializer_range, dtype=self.dtype, use_bias=False
    )
    self.attention_norm = layers.rms_norm(c.layer_norm_eps, dtype=self.dtype)
    self.query = layers.dense(c.inner_size, ("embed", "heads"), **how)
    self.key = layers.dense(c.inner_size, ("embed", "heads"), **how)
    self.value = layers.dense(c.inner_size, ("embed", "heads"), **how)
    self.attention_out = layers.dense(c.hidden_size, ("heads", "embed"), **how)
    self.ffn_norm = layers.rms_norm(c.layer_norm_eps, dtype=self.dtype)
    if c.gated:
      inward = (c.intermediate_size, ("embed", "mlp"))
      self.ffn_activated = layers.dense(*inward, **how)
      self.ffn_linear = layers.dense(*inward, **how)
    else:
      self.ffn_in = layers.dense(c.intermediate_size, ("embed", "mlp"), **how)
    self.ffn_out = layers.dense(c.hidden_size, ("mlp", "embed"), **how)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's normed input."""
    x = self.attention_norm(x)
    return Qkv(self.query(x), self.key(x), self.value(x))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    kind: Any,
    shared: Shared,
    deterministic: bool = True,
  ) -> Float[Array, "B T D"]:
    """Attention and feed-forward, each on its normed input, with residual."""
    del kind, deterministic
    c, qkv = self.config, self.project(x)
    mixed = attend(
      qkv.query,
      qkv.key,
      qkv.value,
      shared.mask,
      num_heads=c.num_heads,
      bias=shared.bias,
      scale=1.0,
    )
    x = x + self.attention_out(mixed)
    return x + self.ffn_out(self._inner(self.ffn_norm(x)))

  def _inner(self, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
    activation = layers.ACTIVATIONS[self.config.activation]
    if self.config.gated:
      return activation(self.ffn_activated(x)) * self.ffn_linear(x)
    return activation(self.ffn_in(x))


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    self.word = layers.Embed(c.vocab_size, c.hidden_size, "vocab", **how)
    self.relative = layers.Embed(c.num_buckets, c.num_heads, "positions", **how)
    if self.num_layers > 1:
      self.layers = encoder.stack(Block, self.num_layers - 1)(c, self.dtype)
    self.last = Block(c, self.dtype)
    self.final_norm = layers.rms_norm(c.layer_norm_eps, dtype=self.dtype)

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Shared]:
    """Embeds a batch; its blocks share the scores of the distances."""
    del deterministic
    c, steps = self.config, np.arange(batch.tokens.shape[1])
    distances = steps[None, :] - steps[:, None]
    buckets = relative.t5_buckets(distances, c.num_buckets, c.max_distance)
    bias = jnp.moveaxis(self.relative(buckets), -1, 0)[None]
    mask = layers.document_mask(batch.segment_ids)
    return self.word(batch.tokens), Shared(bias, mask)

  def leave(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The final norm."""
    return self.final_norm(x)


NAMES = KeyTable(
  prefixes=("",),
  whole={
    "word/embedding": "shared.weight",
    "relative/embedding": (
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "final_norm/scale": "encoder.final_layer_norm.weight",
  },
  block_prefix="encoder.block.{layer}.",
  block={
    "attention_norm/scale": "layer.0.layer_norm.weight",
    "query/kernel": "layer.0.SelfAttention.q.weight",
    "key/kernel": "layer.0.SelfAttention.k.weight",
    "value/kernel": "layer.0.SelfAttention.v.weight",
    "attention_out/kernel": "layer.0.SelfAttention.o.weight",
    "ffn_norm/scale": "layer.1.layer_norm.weight",
    "ffn_in/kernel": "layer.1.DenseReluDense.wi.weight",
    "ffn_activated/kernel": "layer.1.DenseReluDense.wi_0.weight",
    "ffn_linear/kernel": "layer.1.DenseReluDense.wi_1.weight",
    "ffn_out/kernel": "layer.1.DenseReluDense.wo.weight",
  },
  aliases={"shared.weight": "encoder.embed_tokens.weight"},
)

FAMILY = Family(
  parse_config, Encoder, NAMES, ("attention_norm", "query", "key", "value")
)
