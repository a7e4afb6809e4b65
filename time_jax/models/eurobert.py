"""EuroBERT: a bidirectional Llama.

Pre-norm blocks with RMSNorm, rotary positions, grouped-query attention and a
SiLU gate (Boizard et al., arXiv 2503.05500). Keys and values are narrower than
queries; each keeps its own width in the relations.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, rotary
from time_jax.models.attention import attend
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class EuroBertConfig:
  """Shape of an encoder of this family.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: transformer blocks of the complete network.
    num_heads: attention heads N of the queries.
    num_key_heads: heads of keys and values; each serves neighbouring queries.
    head_dim: H.
    intermediate_size: F.
    theta: RoPE's base.
    max_positions: longest document, in tokens.
    attention_bias: whether the attention's projections have a bias; likewise:
    mlp_bias: the feed-forward's.
    layer_norm_eps: epsilon of every RMSNorm.
    activation: a key of `layers.ACTIVATIONS`.
    initializer_range: standard deviation of fresh weights.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  num_key_heads: int
  head_dim: int
  intermediate_size: int
  theta: float
  max_positions: int
  attention_bias: bool = False
  mlp_bias: bool = False
  layer_norm_eps: float = 1e-5
  activation: str = "silu"
  initializer_range: float = 0.02

  def __post_init__(self) -> None:
    layers.check_shape(
      hidden_size=self.num_heads * self.head_dim,
      num_heads=self.num_heads,
      activation=self.activation,
    )
    if self.num_heads % self.num_key_heads:
      raise UserError(
        f"num_key_value_heads={self.num_key_heads} must divide "
        f"num_attention_heads={self.num_heads}."
      )

  @property
  def widths(self) -> dict[str, int]:
    """Of the three projections."""
    narrow = self.num_key_heads * self.head_dim
    wide = self.num_heads * self.head_dim
    return {"query": wide, "key": narrow, "value": narrow}


def parse_config(hf: Mapping[str, Any]) -> EuroBertConfig:
  """Reads a config.json (the model's own 4.x form, or transformers 5.x)."""
  heads = hf["num_attention_heads"]
  theta = hf.get("rope_theta", 250_000.0)
  for rope in (hf.get("rope_scaling"), hf.get("rope_parameters")):
    theta = rotary.theta_of(rope or {}, theta)
  return EuroBertConfig(
    vocab_size=hf["vocab_size"],
    hidden_size=hf["hidden_size"],
    num_layers=hf["num_hidden_layers"],
    num_heads=heads,
    num_key_heads=hf.get("num_key_value_heads") or heads,
    head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
    intermediate_size=hf["intermediate_size"],
    theta=theta,
    max_positions=hf["max_position_embeddings"],
    attention_bias=hf.get("attention_bias", False),
    mlp_bias=hf.get("mlp_bias", False),
    layer_norm_eps=hf.get("rms_norm_eps", 1e-5),
    activation=hf.get("hidden_act", "silu"),
    initializer_range=hf.get("initializer_range", 0.02),
  )


class Shared(NamedTuple):
  """What all blocks use."""

  segment_ids: Ids
  angles: Float[Array, "B T half"]


class Block(nn.Module):
  """One pre-norm block."""

  config: EuroBertConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c, widths = self.config, self.config.widths
    how: Any = dict(stddev=c.initializer_range, dtype=self.dtype)
    attention = how | dict(use_bias=c.attention_bias)
    mlp = how | dict(use_bias=c.mlp_bias)
    inward = ("embed", "heads")
    self.attention_norm = layers.rms_norm(c.layer_norm_eps, dtype=self.dtype)
    self.query = layers.dense(widths["query"], inward, **attention)
    self.key = layers.dense(widths["key"], inward, **attention)
    self.value = layers.dense(widths["value"], inward, **attention)
    self.attention_out = layers.dense(
      c.hidden_size, ("heads", "embed"), **attention
    )
    self.ffn_norm = layers.rms_norm(c.layer_norm_eps, dtype=self.dtype)
    self.ffn_gate = layers.dense(c.intermediate_size, ("embed", "mlp"), **mlp)
    self.ffn_in = layers.dense(c.intermediate_size, ("embed", "mlp"), **mlp)
    self.ffn_out = layers.dense(c.hidden_size, ("mlp", "embed"), **mlp)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's normed input, not rotated."""
    x = self.attention_norm(x)
    return Qkv(self.query(x), self.key(x), self.value(x))

  def rotate(self, qkv: Qkv, kind: Any, shared: Shared) -> Qkv:
    """Turns query and key by their positions."""
    del kind
    query, key = (rotary.rotate(x, shared.angles) for x in (qkv.query, qkv.key))
    return Qkv(query, key, qkv.value)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    kind: Any,
    shared: Shared,
    deterministic: bool = True,
  ) -> Float[Array, "B T D"]:
    """Attention and feed-forward, each on its normed input, with residual."""
    del deterministic
    c = self.config
    qkv = self.rotate(self.project(x), kind, shared)
    mixed = attend(
      qkv.query,
      qkv.key,
      qkv.value,
      None,
      num_heads=c.num_heads,
      num_key_heads=c.num_key_heads,
      documents=shared.segment_ids,
    )
    x = x + self.attention_out(mixed)
    y = self.ffn_norm(x)
    gate = layers.ACTIVATIONS[c.activation](self.ffn_gate(y))
    return x + self.ffn_out(gate * self.ffn_in(y))


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    self.word = layers.Embed(c.vocab_size, c.hidden_size, "vocab", **how)
    if self.num_layers > 1:
      self.layers = encoder.stack(Block, self.num_layers - 1)(c, self.dtype)
    self.last = Block(c, self.dtype)
    self.final_norm = layers.rms_norm(c.layer_norm_eps, dtype=self.dtype)

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Shared]:
    """Embeds a batch; its blocks share documents and angles."""
    del deterministic
    c = self.config
    angles = rotary.angles(batch.positions, c.head_dim, c.theta)
    return self.word(batch.tokens), Shared(batch.segment_ids, angles)

  def leave(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The final norm."""
    return self.final_norm(x)


NAMES = KeyTable(
  prefixes=("", "model."),
  whole={
    "word/embedding": "embed_tokens.weight",
    "final_norm/scale": "norm.weight",
  },
  block_prefix="layers.{layer}.",
  block={
    "attention_norm/scale": "input_layernorm.weight",
    "query/kernel": "self_attn.q_proj.weight",
    "query/bias": "self_attn.q_proj.bias",
    "key/kernel": "self_attn.k_proj.weight",
    "key/bias": "self_attn.k_proj.bias",
    "value/kernel": "self_attn.v_proj.weight",
    "value/bias": "self_attn.v_proj.bias",
    "attention_out/kernel": "self_attn.o_proj.weight",
    "attention_out/bias": "self_attn.o_proj.bias",
    "ffn_norm/scale": "post_attention_layernorm.weight",
    "ffn_gate/kernel": "mlp.gate_proj.weight",
    "ffn_gate/bias": "mlp.gate_proj.bias",
    "ffn_in/kernel": "mlp.up_proj.weight",
    "ffn_in/bias": "mlp.up_proj.bias",
    "ffn_out/kernel": "mlp.down_proj.weight",
    "ffn_out/bias": "mlp.down_proj.bias",
  },
)

FAMILY = Family(
  parse_config,
  Encoder,
  NAMES,
  ("attention_norm", "query", "key", "value"),
  rotary=True,
)
