"""DeBERTa-v2, DeBERTa-v3 and mDeBERTa.

Post-norm blocks without absolute positions: attention scores sum content,
content-to-position and position-to-content terms (He et al., arXiv 2006.03654
and 2111.09543). The version with a convolution beside block 1 is v2-xlarge's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, relative
from time_jax.models.attention import attend
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class DebertaConfig:
  """Shape of an encoder of this family.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: transformer blocks of the complete network.
    num_heads: attention heads N.
    intermediate_size: F.
    num_buckets: relative positions of one sign.
    max_distance: distances from here on share the last bucket.
    terms: of the scores besides content: "c2p", "p2c" or both.
    shared_projections: whether the relative table runs through the content's
      projections, or through its own.
    table_norm: whether the relative table has a LayerNorm.
    conv_size: taps of the convolution beside block 1; 0: none.
    conv_activation: a key of `layers.ACTIVATIONS`.
    layer_norm_eps: epsilon of every LayerNorm.
    activation: a key of `layers.ACTIVATIONS`.
    initializer_range: standard deviation of fresh weights.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  intermediate_size: int
  num_buckets: int
  max_distance: int
  terms: tuple[str, ...] = ("c2p", "p2c")
  shared_projections: bool = True
  table_norm: bool = True
  conv_size: int = 0
  conv_activation: str = "gelu"
  layer_norm_eps: float = 1e-7
  activation: str = "gelu"
  initializer_range: float = 0.02

  max_positions = None  # Any length: distances are all there is.

  def __post_init__(self) -> None:
    for activation in (self.activation, self.conv_activation):
      layers.check_shape(
        hidden_size=self.hidden_size,
        num_heads=self.num_heads,
        activation=activation,
      )

  @property
  def head_dim(self) -> int:
    """Width of an attention head."""
    return self.hidden_size // self.num_heads

  @property
  def widths(self) -> dict[str, int]:
    """Of the three projections."""
    return dict.fromkeys(("query", "key", "value"), self.hidden_size)

  def row_of(self, distances: Any) -> np.ndarray:
    """Rows of the relative table, for distances query minus key."""
    p = self.num_buckets
    buckets = relative.log_buckets(distances, p, self.max_distance)
    return np.clip(buckets + p, 0, 2 * p - 1)


# config.json key -> the only value that is supported, also when absent.
_REQUIRED = {
  "relative_attention": True,
  "position_biased_input": False,
  "type_vocab_size": 0,
  "conv_groups": 1,
}


def parse_config(hf: Mapping[str, Any]) -> DebertaConfig:
  """Reads a Hugging Face config.json (transformers 4.x or 5.x)."""
  hidden, heads = hf["hidden_size"], hf["num_attention_heads"]
  needed = _REQUIRED | {
    "attention_head_size": hidden // heads,
    "embedding_size": hidden,
  }
  wrong = [
    f"{key}={hf[key]!r}, expected {value!r}"
    for key, value in needed.items()
    if hf.get(key) not in (None, value)
  ]
  if hf.get("position_buckets", -1) < 2:
    wrong.append("no position_buckets, expected v2's or v3's 256")
  if wrong:
    raise UserError(f"this DeBERTa is not supported: {'; '.join(wrong)}.")
  terms = hf.get("pos_att_type") or ()
  farthest = hf.get("max_relative_positions", -1)
  return DebertaConfig(
    vocab_size=hf["vocab_size"],
    hidden_size=hidden,
    num_layers=hf["num_hidden_layers"],
    num_heads=heads,
    intermediate_size=hf["intermediate_size"],
    num_buckets=hf["position_buckets"],
    max_distance=farthest if farthest > 0 else hf["max_position_embeddings"],
    terms=tuple(terms.split("|") if isinstance(terms, str) else terms),
    shared_projections=hf.get("share_att_key", False),
    table_norm="layer_norm" in hf.get("norm_rel_ebd", "none"),
    conv_size=hf.get("conv_kernel_size") or 0,
    conv_activation=hf.get("conv_act", "tanh"),
    layer_norm_eps=hf.get("layer_norm_eps", 1e-7),
    activation=hf.get("hidden_act", "gelu"),
    initializer_range=hf.get("initializer_range", 0.02),
  )


class Shared(NamedTuple):
  """What all blocks use: the relative table, normed, and the masks."""

  table: Float[Array, "rows D"]
  mask: Bool[Array, "B 1 T T"]
  segment_ids: Ids


class Embeddings(nn.Module):
  """LN(word), and 0 at padding."""

  config: DebertaConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.word = layers.Embed(
      c.vocab_size,
      c.hidden_size,
      "vocab",
      stddev=c.initializer_range,
      dtype=self.dtype,
    )
    self.norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)

  def __call__(self, batch: Batch) -> Float[Array, "B T D"]:
    """Looks every token up."""
    real = batch.segment_ids[..., None] > 0
    return jnp.where(real, self.norm(self.word(batch.tokens)), 0)


class Block(nn.Module):
  """One post-norm transformer block with disentangled attention."""

  config: DebertaConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    inward = ("embed", "heads")
    self.query = layers.dense(c.hidden_size, inward, **how)
    self.key = layers.dense(c.hidden_size, inward, **how)
    self.value = layers.dense(c.hidden_size, inward, **how)
    if not c.shared_projections and "c2p" in c.terms:
      self.table_key = layers.dense(c.hidden_size, inward, **how)
    if not c.shared_projections and "p2c" in c.terms:
      self.table_query = layers.dense(c.hidden_size, inward, **how)
    self.attention_out = layers.dense(c.hidden_size, ("heads", "embed"), **how)
    self.attention_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    self.ffn_in = layers.dense(c.intermediate_size, ("embed", "mlp"), **how)
    self.ffn_out = layers.dense(c.hidden_size, ("mlp", "embed"), **how)
    self.ffn_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's input, without positions."""
    return Qkv(self.query(x), self.key(x), self.value(x))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    kind: Any,
    shared: Shared,
    deterministic: bool = True,
  ) -> Float[Array, "B T D"]:
    """Attention and feed-forward, each with residual and LayerNorm."""
    del kind, deterministic
    c, qkv = self.config, self.project(x)
    scale = ((1 + len(c.terms)) * c.head_dim) ** -0.5
    mixed = attend(
      qkv.query,
      qkv.key,
      qkv.value,
      shared.mask,
      num_heads=c.num_heads,
      bias=self._position_scores(qkv, shared.table) * scale,
      scale=scale,
    )
    x = self.attention_norm(x + self.attention_out(mixed))
    inner = layers.ACTIVATIONS[c.activation](self.ffn_in(x))
    return self.ffn_norm(x + self.ffn_out(inner))

  def _position_scores(
    self, qkv: Qkv, table: Float[Array, "rows D"]
  ) -> Float[Array, "B N T T"]:
    c = self.config
    own = not c.shared_projections
    table_query = table_key = None
    if "c2p" in c.terms:
      table_key = (self.table_key if own else self.key)(table)
    if "p2c" in c.terms:
      table_query = (self.table_query if own else self.query)(table)

    def split(part: Array | None) -> Array | None:
      return None if part is None else layers.split_heads(part, c.num_heads)

    return relative.disentangled_scores(
      layers.split_heads(qkv.query, c.num_heads),
      layers.split_heads(qkv.key, c.num_heads),
      split(table_query),
      split(table_key),
      c.row_of,
    )


class Convolution(nn.Module):
  """A convolution over tokens that ends where a document ends."""

  config: DebertaConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    normal = nn.initializers.normal(c.initializer_range)
    init = nn.with_logical_partitioning(normal, ("taps", "heads", "embed"))
    shape = (c.conv_size, c.hidden_size, c.hidden_size)
    self.kernel = self.param("kernel", init, shape)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
    self.bias = self.param("bias", zeros, shape[-1:])

  def __call__(
    self, x: Float[Array, "B T D"], segment_ids: Ids
  ) -> Float[Array, "B T D"]:
    """Sums the taps; a neighbour outside of the document counts as 0."""
    length, reach = x.shape[1], (self.config.conv_size - 1) // 2
    wide = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    ids = jnp.pad(segment_ids, ((0, 0), (reach, reach)))
    kernels, bias = jnp.asarray(self.kernel), jnp.asarray(self.bias)
    total = jnp.broadcast_to(bias.astype(x.dtype), x.shape)
    for tap, kernel in enumerate(kernels.astype(x.dtype)):
      same = ids[:, tap : tap + length] == segment_ids
      near = jnp.where(same[..., None], wide[:, tap : tap + length], 0)
      total += near @ kernel
    return total


class FirstBlock(Block):
  """Block 1 with a convolution over the embeddings beside it."""

  def setup(self) -> None:  # noqa: D102
    super().setup()
    c = self.config
    self.conv = Convolution(c, self.dtype)
    self.conv_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    kind: Any,
    shared: Shared,
    deterministic: bool = True,
  ) -> Float[Array, "B T D"]:
    """LN(block(x) + activation(conv(x)))."""
    c = self.config
    local = self.conv(x, shared.segment_ids)
    local = layers.ACTIVATIONS[c.conv_activation](local)
    return self.conv_norm(
      super().__call__(x, kind, shared, deterministic) + local
    )


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = Embeddings(c, self.dtype)
    self.relative = layers.Embed(
      2 * c.num_buckets,
      c.hidden_size,
      "positions",
      stddev=c.initializer_range,
      dtype=self.dtype,
    )
    if c.table_norm:
      self.relative_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    between = self.num_layers - 1
    if c.conv_size and between:
      self.first = FirstBlock(c, self.dtype)
      between -= 1
    if between:
      self.layers = encoder.stack(Block, between)(c, self.dtype)
    self.last = Block(c, self.dtype)

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Shared]:
    """Embeds a batch; its blocks share the relative table."""
    del deterministic
    table = self.relative(np.arange(2 * self.config.num_buckets))
    if self.config.table_norm:
      table = self.relative_norm(table)
    mask = layers.document_mask(batch.segment_ids)
    return self.embeddings(batch), Shared(table, mask, batch.segment_ids)


NAMES = KeyTable(
  prefixes=("", "deberta."),
  whole={
    "embeddings/word/embedding": "embeddings.word_embeddings.weight",
    "embeddings/norm/scale": "embeddings.LayerNorm.weight",
    "embeddings/norm/bias": "embeddings.LayerNorm.bias",
    "relative/embedding": "encoder.rel_embeddings.weight",
    "relative_norm/scale": "encoder.LayerNorm.weight",
    "relative_norm/bias": "encoder.LayerNorm.bias",
    "first/conv/kernel": "encoder.conv.conv.weight",
    "first/conv/bias": "encoder.conv.conv.bias",
    "first/conv_norm/scale": "encoder.conv.LayerNorm.weight",
    "first/conv_norm/bias": "encoder.conv.LayerNorm.bias",
  },
  block_prefix="encoder.layer.{layer}.",
  block={
    "query/kernel": "attention.self.query_proj.weight",
    "query/bias": "attention.self.query_proj.bias",
    "key/kernel": "attention.self.key_proj.weight",
    "key/bias": "attention.self.key_proj.bias",
    "value/kernel": "attention.self.value_proj.weight",
    "value/bias": "attention.self.value_proj.bias",
    "table_key/kernel": "attention.self.pos_key_proj.weight",
    "table_key/bias": "attention.self.pos_key_proj.bias",
    "table_query/kernel": "attention.self.pos_query_proj.weight",
    "table_query/bias": "attention.self.pos_query_proj.bias",
    "attention_out/kernel": "attention.output.dense.weight",
    "attention_out/bias": "attention.output.dense.bias",
    "attention_norm/scale": "attention.output.LayerNorm.weight",
    "attention_norm/bias": "attention.output.LayerNorm.bias",
    "ffn_in/kernel": "intermediate.dense.weight",
    "ffn_in/bias": "intermediate.dense.bias",
    "ffn_out/kernel": "output.dense.weight",
    "ffn_out/bias": "output.dense.bias",
    "ffn_norm/scale": "output.LayerNorm.weight",
    "ffn_norm/bias": "output.LayerNorm.bias",
  },
)

FAMILY = Family(parse_config, Encoder, NAMES, ("query", "key", "value"))
