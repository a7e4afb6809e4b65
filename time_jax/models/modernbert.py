"""ModernBERT, mmBERT and Ettin encoders.

Pre-norm blocks with rotary positions and a gated feed-forward; every third
block sees the whole document, the others a window (Warner et al., arXiv
2412.13663). Distil a global block: in a local one only near tokens ever met.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, rotary
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask
from time_jax.models.encoder import Context, Hidden
from time_jax.models.family import Family, KeyTable

# Kinds of blocks.
LOCAL, GLOBAL = 0, 1
_KINDS = {"sliding_attention": LOCAL, "full_attention": GLOBAL}


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(encoder.EvenSizes):
  """Shape of an encoder of this family.

  Attributes:
    kinds: LOCAL or GLOBAL, for each block.
    window: how many tokens on either side a local block sees.
    thetas: RoPE's base in local and in global blocks.
    max_positions: longest document, in tokens.
    norm_bias: whether LayerNorms have a bias.
    attention_bias: whether the projections of attention have one.
    mlp_bias: whether the linear layers of the feed-forward have one.
    layer_norm_eps: epsilon of every LayerNorm.
    activation: a key of `layers.ACTIVATIONS`.
    initializer_range: standard deviation of fresh weights.
  """

  kinds: tuple[int, ...]
  window: int
  thetas: tuple[float, float]
  max_positions: int
  norm_bias: bool = False
  attention_bias: bool = False
  mlp_bias: bool = False
  layer_norm_eps: float = 1e-5
  activation: str = "gelu"
  initializer_range: float = 0.02


def parse_config(hf: Mapping[str, Any]) -> ModernBertConfig:
  """Reads a Hugging Face config.json (transformers 4.x or 5.x)."""
  return encoder.read_fields(
    ModernBertConfig,
    hf,
    {"layer_norm_eps": "norm_eps", "activation": "hidden_activation"},
    kinds=_kinds(hf),
    window=hf["local_attention"] // 2,
    thetas=_thetas(hf),
  )


def _kinds(hf: Mapping[str, Any]) -> tuple[int, ...]:
  """Reads which blocks are local and which global."""
  count = hf["num_hidden_layers"]
  if hf.get("layer_types"):  # transformers 5.x
    names = hf["layer_types"]
    unknown = sorted(set(names) - set(_KINDS))
    if unknown or len(names) != count:
      raise UserError(
        f"layer_types has {len(names)} entries, unknown among them: {unknown}; "
        f"expected {count} of {', '.join(_KINDS)}."
      )
    return tuple(_KINDS[name] for name in names)
  every = hf["global_attn_every_n_layers"]
  return tuple(LOCAL if i % every else GLOBAL for i in range(count))


def _thetas(hf: Mapping[str, Any]) -> tuple[float, float]:
  """Reads RoPE's bases of local and of global blocks."""
  of_all = rotary.theta_of(hf, hf.get("global_rope_theta", 160_000.0))
  scaled = hf.get("rope_scaling")  # transformers 4.x; refused unless default
  rotary.theta_of(scaled or {}, of_all)
  ropes = hf.get("rope_parameters") or {}  # transformers 5.x
  return (
    rotary.theta_of(
      ropes.get("sliding_attention") or {}, hf.get("local_rope_theta") or of_all
    ),
    rotary.theta_of(ropes.get("full_attention") or {}, of_all),
  )


class Shared(NamedTuple):
  """What all blocks use; angles for each kind of block."""

  segment_ids: Ids
  angles: Float[Array, "kinds B T half"]


class Block(encoder.Block):
  """One pre-norm block; the projections are one matrix, as in the files.

  Attributes:
    first: whether this is block 1, whose attention has no LayerNorm: the
      embeddings have just had theirs.
  """

  first: bool = False

  def setup(self) -> None:  # noqa: D102
    c, width = self.config, self.config.hidden_size
    bias = c.attention_bias
    if not self.first:
      self.attention_norm = self.layer_norm(use_bias=c.norm_bias)
    self.projections = self.dense(3 * width, layers.TO_HEADS, bias)
    self.attention_out = self.dense(width, layers.FROM_HEADS, bias)
    self.ffn_norm = self.layer_norm(use_bias=c.norm_bias)
    self.ffn_in = self.dense(2 * c.intermediate_size, layers.TO_MLP, c.mlp_bias)
    self.ffn_out = self.dense(width, layers.FROM_MLP, c.mlp_bias)

  def project(self, x: Hidden) -> Qkv:
    """Computes the three projections of the normed input, not rotated."""
    x = x if self.first else self.attention_norm(x)
    return Qkv(*jnp.split(self.projections(x), 3, axis=-1))

  def rotate(self, qkv: Qkv, context: Context) -> Qkv:
    """Rotates query and key by their positions."""
    return rotary.rotate_qkv(qkv, context.shared.angles[context.kind])

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Attends inside documents, in a local block to near tokens only."""
    window = _window(self.config, context.kind, qkv.query.shape[1])
    mask = Mask(context.shared.segment_ids, window=window)
    qkv = self.rotate(qkv, context)
    return attend(qkv, mask, num_heads=self.config.num_heads)

  def ffn_hidden(self, x: Hidden) -> Float[Array, "B T F"]:
    """Multiplies the first half, activated, by the second, which is linear."""
    inner, linear = jnp.split(self.ffn_in(x), 2, axis=-1)
    return layers.ACTIVATIONS[self.config.activation](inner) * linear


def _window(
  config: ModernBertConfig, kind: Any, length: int
) -> Int[Array, ""] | int | None:
  """Returns the window of a block, see `attention_operands.Mask`."""
  if isinstance(kind, jax.Array):  # In a scan it is known as the program runs.
    return jnp.where(kind == LOCAL, config.window, length)
  return config.window if kind == LOCAL else None


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = layers.NormedWords(c, self.dtype, use_bias=c.norm_bias)
    self.setup_blocks(Block, first={"first": True}, only={"first": True})
    self.final_norm = self.layer_norm(use_bias=c.norm_bias)

  def kinds(self) -> np.ndarray:
    """Returns LOCAL or GLOBAL for each block."""
    return np.array(self.config.kinds[: self.num_layers], np.int32)

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Shared]:
    """Embeds a batch; its blocks share documents and angles."""
    c = self.config
    angles = [
      rotary.angles(batch.positions, c.head_dim, theta) for theta in c.thetas
    ]
    shared = Shared(batch.segment_ids, jnp.stack(angles))
    return self.embeddings(batch.tokens), shared


NAMES = KeyTable(
  prefixes=("", "model."),
  whole={
    "embeddings/word": "embeddings.tok_embeddings",
    "embeddings/norm": "embeddings.norm",
    "final_norm": "final_norm",
  },
  block_prefix="layers.{layer}.",
  block={
    "attention_norm": "attn_norm",
    "projections": "attn.Wqkv",
    "attention_out": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "ffn_in": "mlp.Wi",
    "ffn_out": "mlp.Wo",
  },
)


FAMILY = Family(
  parse_config,
  encoder=Encoder,
  names=NAMES,
  projecting=("attention_norm", "projections"),
  rotary=True,
)
