"""EuroBERT: a bidirectional Llama.

Pre-norm blocks with RMSNorm, rotary positions, grouped-query attention and a
SiLU gate (Boizard et al., arXiv 2503.05500). Keys and values are narrower than
queries; each keeps its own width in the relations.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from time_jax.core.arrays import PROJECTIONS, Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, rotary
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask
from time_jax.models.encoder import Context, Hidden
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class EuroBertConfig(encoder.Sizes):
  """Shape of an encoder of this family.

  Attributes:
    num_key_heads: heads of keys and values; each serves N / num_key_heads
      heads of the queries in a row.
    head_dim: H; N x H may differ from D.
    theta: RoPE's base.
    max_positions: longest document, in tokens.
    attention_bias: whether the projections of attention have a bias.
    mlp_bias: whether the linear layers of the feed-forward have one.
    layer_norm_eps: epsilon of every RMSNorm.
    activation: a key of `layers.ACTIVATIONS`.
    initializer_range: standard deviation of fresh weights.
  """

  num_key_heads: int
  head_dim: int
  theta: float
  max_positions: int
  attention_bias: bool = False
  mlp_bias: bool = False
  layer_norm_eps: float = 1e-5
  activation: str = "silu"
  initializer_range: float = 0.02

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.num_heads % self.num_key_heads:
      raise UserError(
        f"num_key_value_heads={self.num_key_heads} must divide "
        f"num_attention_heads={self.num_heads}."
      )

  @property
  def widths(self) -> dict[str, int]:
    """Returns the widths of the three projections."""
    narrow = self.num_key_heads * self.head_dim
    wide = self.num_heads * self.head_dim
    return {"query": wide, "key": narrow, "value": narrow}


def parse_config(hf: Mapping[str, Any]) -> EuroBertConfig:
  """Reads a config.json (the model's own 4.x form, or transformers 5.x)."""
  heads = hf["num_attention_heads"]
  theta = hf.get("rope_theta", 250_000.0)
  for rope in (hf.get("rope_scaling"), hf.get("rope_parameters")):
    theta = rotary.theta_of(rope or {}, theta)
  return encoder.read_fields(
    EuroBertConfig,
    hf,
    {"layer_norm_eps": "rms_norm_eps"},
    num_key_heads=hf.get("num_key_value_heads") or heads,
    head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
    theta=theta,
  )


class Shared(NamedTuple):
  """What all blocks use."""

  segment_ids: Ids
  angles: Float[Array, "B T half"]


class Block(encoder.Block):
  """One pre-norm block."""

  def setup(self) -> None:  # noqa: D102
    c, widths = self.config, self.config.widths
    bias = c.attention_bias
    self.attention_norm = self.rms_norm()
    self.query = self.dense(widths["query"], layers.TO_HEADS, bias)
    self.key = self.dense(widths["key"], layers.TO_HEADS, bias)
    self.value = self.dense(widths["value"], layers.TO_HEADS, bias)
    self.attention_out = self.dense(c.hidden_size, layers.FROM_HEADS, bias)
    bias = c.mlp_bias
    self.ffn_norm = self.rms_norm()
    self.ffn_gate = self.dense(c.intermediate_size, layers.TO_MLP, bias)
    self.ffn_in = self.dense(c.intermediate_size, layers.TO_MLP, bias)
    self.ffn_out = self.dense(c.hidden_size, layers.FROM_MLP, bias)

  def rotate(self, qkv: Qkv, context: Context) -> Qkv:
    """Rotates query and key by their positions."""
    return rotary.rotate_qkv(qkv, context.shared.angles)

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Attends inside documents."""
    return attend(
      self.rotate(qkv, context),
      Mask(context.shared.segment_ids),
      num_heads=self.config.num_heads,
      num_key_heads=self.config.num_key_heads,
    )

  def ffn_hidden(self, x: Hidden) -> Float[Array, "B T F"]:
    """Multiplies the linear half by the activated one."""
    gate = layers.ACTIVATIONS[self.config.activation](self.ffn_gate(x))
    return gate * self.ffn_in(x)


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    self.word = self.embed(self.config.vocab_size, "vocab")
    self.setup_blocks(Block)
    self.final_norm = self.rms_norm()

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Shared]:
    """Embeds a batch; its blocks share documents and angles."""
    c = self.config
    angles = rotary.angles(batch.positions, c.head_dim, c.theta)
    return self.word(batch.tokens), Shared(batch.segment_ids, angles)


NAMES = KeyTable(
  prefixes=("", "model."),
  whole={"word": "embed_tokens", "final_norm": "norm"},
  block_prefix="layers.{layer}.",
  block={
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_in": "mlp.up_proj",
    "ffn_out": "mlp.down_proj",
  },
)


FAMILY = Family(
  parse_config,
  encoder=Encoder,
  names=NAMES,
  projecting=("attention_norm", *PROJECTIONS.values()),
  rotary=True,
)
