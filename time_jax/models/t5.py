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

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import PROJECTIONS, Batch, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, relative
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask, matrix_mask
from time_jax.models.encoder import Context, Hidden
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class T5Config(encoder.Sizes):
  """Shape of an encoder of this family.

  Attributes:
    head_dim: H; N x H may differ from D.
    activation: a key of `layers.ACTIVATIONS`.
    gated: whether the feed-forward has a linear gate.
    num_buckets: relative positions of both signs.
    max_distance: distances from here on share the last bucket.
    layer_norm_eps: epsilon of every RMSNorm.
    initializer_range: standard deviation of fresh weights.
  """

  head_dim: int
  activation: str = "relu"
  gated: bool = False
  num_buckets: int = 32
  max_distance: int = 128
  layer_norm_eps: float = 1e-6
  initializer_range: float = 0.02

  max_positions = None  # Any length: distances are all there is.

  @property
  def widths(self) -> dict[str, int]:
    """Returns the widths of the three projections."""
    return dict.fromkeys(PROJECTIONS.values(), self.num_heads * self.head_dim)


_KEYS = {
  "hidden_size": "d_model",
  "num_layers": "num_layers",
  "num_heads": "num_heads",
  "head_dim": "d_kv",
  "intermediate_size": "d_ff",
  "num_buckets": "relative_attention_num_buckets",
  "max_distance": "relative_attention_max_distance",
  "layer_norm_eps": "layer_norm_epsilon",
}


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
  return encoder.read_fields(
    T5Config, hf, _KEYS, activation=activation, gated=gate == "gated"
  )


class Shared(NamedTuple):
  """What all blocks use: scores of the distances, and the mask."""

  bias: Float[Array, "1 N T T"]
  mask: Mask


class Block(encoder.Block):
  """One pre-norm block."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.attention_norm = self.rms_norm()
    self.query = self.dense(c.widths["query"], layers.TO_HEADS, False)
    self.key = self.dense(c.widths["key"], layers.TO_HEADS, False)
    self.value = self.dense(c.widths["value"], layers.TO_HEADS, False)
    self.attention_out = self.dense(c.hidden_size, layers.FROM_HEADS, False)
    self.ffn_norm = self.rms_norm()
    inward = (c.intermediate_size, layers.TO_MLP, False)
    if c.gated:
      self.ffn_activated = self.dense(*inward)
      self.ffn_linear = self.dense(*inward)
    else:
      self.ffn_in = self.dense(*inward)
    self.ffn_out = self.dense(c.hidden_size, layers.FROM_MLP, False)

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Attends inside documents, with unscaled scores."""
    bias, mask = context.shared
    num_heads = self.config.num_heads
    return attend(qkv, mask, num_heads=num_heads, scale=1.0, bias=bias)

  def ffn_hidden(self, x: Hidden) -> Float[Array, "B T F"]:
    """Activates, and multiplies by the linear half where there is one."""
    activation = layers.ACTIVATIONS[self.config.activation]
    if self.config.gated:
      return activation(self.ffn_activated(x)) * self.ffn_linear(x)
    return activation(self.ffn_in(x))


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.word = self.embed(c.vocab_size, "vocab")
    self.relative = self.embed(c.num_buckets, "positions", c.num_heads)
    self.setup_blocks(Block)
    self.final_norm = self.rms_norm()

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Shared]:
    """Embeds a batch; its blocks share the scores of the distances."""
    c, steps = self.config, np.arange(batch.tokens.shape[1])
    distances = steps[None, :] - steps[:, None]
    buckets = relative.t5_buckets(distances, c.num_buckets, c.max_distance)
    bias = jnp.moveaxis(self.relative(buckets), -1, 0)[None]
    shared = Shared(bias, matrix_mask(batch.segment_ids))
    return self.word(batch.tokens), shared


NAMES = KeyTable(
  prefixes=("",),
  whole={
    "word": "shared",
    "relative": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "final_norm": "encoder.final_layer_norm",
  },
  block_prefix="encoder.block.{layer}.",
  block={
    "attention_norm": "layer.0.layer_norm",
    "query": "layer.0.SelfAttention.q",
    "key": "layer.0.SelfAttention.k",
    "value": "layer.0.SelfAttention.v",
    "attention_out": "layer.0.SelfAttention.o",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_in": "layer.1.DenseReluDense.wi",
    "ffn_activated": "layer.1.DenseReluDense.wi_0",
    "ffn_linear": "layer.1.DenseReluDense.wi_1",
    "ffn_out": "layer.1.DenseReluDense.wo",
  },
  aliases={"shared.weight": "encoder.embed_tokens.weight"},
)


FAMILY = Family(
  parse_config,
  encoder=Encoder,
  names=NAMES,
  projecting=("attention_norm", *PROJECTIONS.values()),
)
