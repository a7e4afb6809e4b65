"""DeBERTa-v2, DeBERTa-v3 and mDeBERTa.

Post-norm blocks without absolute positions: attention scores sum content,
content-to-position and position-to-content terms (He et al., arXiv 2006.03654
and 2111.09543). The version with a convolution beside block 1 is v2-xlarge's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from time_jax.core.arrays import PROJECTIONS, Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import bert, encoder, layers, relative
from time_jax.models.attention_operands import matrix_mask
from time_jax.models.encoder import Context, Hidden
from time_jax.models.family import Family, KeyTable
from time_jax.models.relative import Shared


@dataclasses.dataclass(frozen=True)
class DebertaConfig(encoder.EvenSizes):
  """Shape of an encoder of this family.

  Attributes:
    num_buckets: relative positions of one sign.
    max_distance: distances from here on share the last bucket.
    terms: terms of the scores besides content: "c2p", "p2c" or both.
    shared_projections: whether the relative table runs through the content's
      projections, or through its own.
    table_norm: whether the relative table has a LayerNorm.
    conv_size: taps of the convolution beside block 1; 0 for none.
    conv_activation: its activation, a key of `layers.ACTIVATIONS`.
    layer_norm_eps: epsilon of every LayerNorm.
    activation: a key of `layers.ACTIVATIONS`.
    initializer_range: standard deviation of fresh weights.
  """

  num_buckets: int
  max_distance: int
  terms: tuple[str, ...] = ("c2p", "p2c")
  shared_projections: bool = False
  table_norm: bool = True
  conv_size: int = 0
  conv_activation: str = "tanh"
  layer_norm_eps: float = 1e-7
  activation: str = "gelu"
  initializer_range: float = 0.02

  max_positions = None  # Any length: distances are all there is.
  dropout = 0.0  # A teacher is deterministic.

  def __post_init__(self) -> None:
    super().__post_init__()
    layers.check_activation(self.conv_activation)

  def row_of(self, distances: Any) -> np.ndarray:
    """Returns rows of the relative table, for distances query minus key."""
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
  hidden = hf["hidden_size"]
  needed = _REQUIRED | {
    "attention_head_size": hidden // hf["num_attention_heads"],
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
  return encoder.read_fields(
    DebertaConfig,
    hf,
    {
      "num_buckets": "position_buckets",
      "shared_projections": "share_att_key",
      "conv_activation": "conv_act",
    },
    max_distance=farthest if farthest > 0 else hf["max_position_embeddings"],
    terms=tuple(terms.split("|") if isinstance(terms, str) else terms),
    table_norm="layer_norm" in hf.get("norm_rel_ebd", "none"),
    conv_size=hf.get("conv_kernel_size") or 0,
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

  def __call__(self, x: Hidden, segment_ids: Ids) -> Hidden:
    """Sums over the taps; a neighbour outside the document counts as 0."""
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


class Block(bert.Block):
  """BERT's block with disentangled attention.

  Attributes:
    convolution: whether this is block 1 of v2-xlarge, whose output has a
      convolution of its input added: LN(block(x) + activation(conv(x))).
  """

  convolution: bool = False

  def setup(self) -> None:  # noqa: D102
    super().setup()
    c = self.config
    if not c.shared_projections and "c2p" in c.terms:
      self.table_key = self.dense(c.hidden_size, layers.TO_HEADS)
    if not c.shared_projections and "p2c" in c.terms:
      self.table_query = self.dense(c.hidden_size, layers.TO_HEADS)
    if self.convolution:
      self.conv = Convolution(c, self.dtype)
      self.conv_norm = self.layer_norm()

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Attends inside documents, by content and by relative position."""
    c, shared = self.config, context.shared
    table_query = table_key = None
    if "c2p" in c.terms:
      key = self.key if c.shared_projections else self.table_key
      table_key = self.split_heads(key(shared.table))
    if "p2c" in c.terms:
      query = self.query if c.shared_projections else self.table_query
      table_query = self.split_heads(query(shared.table))
    return relative.attend_disentangled(
      qkv, shared.mask, c, table_query, table_key
    )

  def __call__(self, x: Hidden, context: Context) -> Hidden:
    """Computes BERT's block, with the convolution where there is one."""
    if not self.convolution:
      return super().__call__(x, context)
    local = self.conv(x, context.shared.mask.segment_ids)
    local = layers.ACTIVATIONS[self.config.conv_activation](local)
    return self.conv_norm(super().__call__(x, context) + local)


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = layers.NormedWords(c, self.dtype)
    self.relative = self.embed(2 * c.num_buckets, "positions")
    if c.table_norm:
      self.relative_norm = self.layer_norm()
    first = {"convolution": True} if c.conv_size else None
    self.setup_blocks(Block, first)

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Shared]:
    """Embeds a batch, padding as 0; its blocks share the relative table."""
    ids = batch.segment_ids
    table = self.relative(np.arange(2 * self.config.num_buckets))
    if self.config.table_norm:
      table = self.relative_norm(table)
    shared = Shared(table, matrix_mask(ids))
    x = jnp.where(ids[..., None] > 0, self.embeddings(batch.tokens), 0)
    return x, shared


NAMES = KeyTable(
  prefixes=("", "deberta."),
  whole={
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "relative": "encoder.rel_embeddings",
    "relative_norm": "encoder.LayerNorm",
    "first/conv": "encoder.conv.conv",
    "first/conv_norm": "encoder.conv.LayerNorm",
  },
  block_prefix="encoder.layer.{layer}.",
  block={
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
    "table_key": "attention.self.pos_key_proj",
    "table_query": "attention.self.pos_query_proj",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
  },
)


FAMILY = Family(
  parse_config,
  encoder=Encoder,
  names=NAMES,
  projecting=tuple(PROJECTIONS.values()),
)
