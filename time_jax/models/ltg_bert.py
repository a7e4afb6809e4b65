"""LTG-BERT: the HPLT encoders (v1, v2) and NorBERT 3.

Pre-norm blocks with a second LayerNorm inside both halves, gated
feed-forward, and DeBERTa's attention over 2P - 1 relative positions (Samuel
et al., arXiv 2303.09859). Most LayerNorms have no parameters.
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

LAYOUTS = ("flat", "per_head")


@dataclasses.dataclass(frozen=True)
class LtgConfig:
  """Shape of an encoder of this family.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: transformer blocks of the complete network.
    num_heads: attention heads N.
    intermediate_size: F.
    num_buckets: P, relative positions of one sign.
    max_positions: longest document, in tokens.
    relative_layout: how the projected relative table is split: "flat" into
      query and key and each into heads (HPLT's training code), "per_head"
      into heads and each into query and key (NorBERT 3; files of 2024).
    layer_norm_eps: epsilon of every LayerNorm.
    initializer_range: standard deviation of fresh weights.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  intermediate_size: int
  num_buckets: int = 32
  max_positions: int = 512
  relative_layout: str = "flat"
  layer_norm_eps: float = 1e-7
  initializer_range: float = 0.02

  def __post_init__(self) -> None:
    layers.check_shape(
      hidden_size=self.hidden_size,
      num_heads=self.num_heads,
      activation="gelu_new",
    )
    if self.relative_layout not in LAYOUTS:
      raise UserError(
        f"relative_layout={self.relative_layout!r} is unknown; expected one "
        f"of {', '.join(LAYOUTS)}."
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
    farthest = self.max_positions - 1
    near = np.clip(distances, -farthest, farthest)
    p = self.num_buckets
    return relative.log_buckets(near, p, self.max_positions) + p - 1


def parse_config(hf: Mapping[str, Any]) -> LtgConfig:
  """Reads a Hugging Face config.json, which names no model_type.

  `relative_layout` is our own key; without it the architecture decides.
  """
  names = hf.get("architectures") or [""]
  norbert = names[0].lower().startswith("norbert")
  return LtgConfig(
    vocab_size=hf["vocab_size"],
    hidden_size=hf["hidden_size"],
    num_layers=hf["num_hidden_layers"],
    num_heads=hf["num_attention_heads"],
    intermediate_size=hf["intermediate_size"],
    num_buckets=hf.get("position_bucket_size", 32),
    max_positions=hf.get("max_position_embeddings", 512),
    relative_layout=hf.get(
      "relative_layout", "per_head" if norbert else "flat"
    ),
    layer_norm_eps=hf.get("layer_norm_eps", 1e-7),
  )


class Shared(NamedTuple):
  """What all blocks use: the relative table, normed, and the mask."""

  table: Float[Array, "rows D"]
  mask: Bool[Array, "B 1 T T"]


class Embeddings(nn.Module):
  """LN(word), without parameters in the LayerNorm."""

  config: LtgConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    self.word = layers.Embed(c.vocab_size, c.hidden_size, "vocab", **how)
    self.norm = _plain_norm(c, self.dtype)

  def __call__(self, batch: Batch) -> Float[Array, "B T D"]:
    """Looks every token up."""
    return self.norm(self.word(batch.tokens))


class Block(nn.Module):
  """One block; query and key share a projection, as in the files."""

  config: LtgConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how: Any = dict(stddev=c.initializer_range, dtype=self.dtype)
    self.plain_norm = _plain_norm(c, self.dtype)
    self.query_key = layers.dense(2 * c.hidden_size, ("embed", "heads"), **how)
    self.value = layers.dense(c.hidden_size, ("embed", "heads"), **how)
    self.attention_out = layers.dense(c.hidden_size, ("heads", "embed"), **how)
    self.attention_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    how |= dict(use_bias=False)
    self.ffn_in = layers.dense(2 * c.intermediate_size, ("embed", "mlp"), **how)
    self.ffn_out = layers.dense(c.hidden_size, ("mlp", "embed"), **how)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's normed input."""
    x = self.plain_norm(x)
    query, key = jnp.split(self.query_key(x), 2, axis=-1)
    return Qkv(query, key, self.value(x))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    kind: Any,
    shared: Shared,
    deterministic: bool = True,
  ) -> Float[Array, "B T D"]:
    """Adds LN(attention(LN x)) to x, then the same of the feed-forward."""
    del kind, deterministic
    c, qkv = self.config, self.project(x)
    scale = (3 * c.head_dim) ** -0.5
    positions = relative.disentangled_scores(
      layers.split_heads(qkv.query, c.num_heads),
      layers.split_heads(qkv.key, c.num_heads),
      *self._split_table(self.query_key(shared.table)),
      c.row_of,
    )
    mixed = attend(
      qkv.query,
      qkv.key,
      qkv.value,
      shared.mask,
      num_heads=c.num_heads,
      bias=positions * scale,
      scale=scale,
    )
    x = x + self.attention_norm(self.attention_out(mixed))
    # The second half is the gate.
    inner, gate = jnp.split(self.ffn_in(self.plain_norm(x)), 2, axis=-1)
    inner = self.plain_norm(inner * layers.ACTIVATIONS["gelu_new"](gate))
    return x + self.ffn_out(inner)

  def _split_table(
    self, table: Float[Array, "rows D2"]
  ) -> tuple[Float[Array, "rows N H"], Float[Array, "rows N H"]]:
    """The relative table's queries and keys, by head."""
    c = self.config
    if c.relative_layout == "per_head":
      query, key = jnp.split(layers.split_heads(table, c.num_heads), 2, axis=-1)
      return query, key
    query, key = jnp.split(table, 2, axis=-1)
    return (
      layers.split_heads(query, c.num_heads),
      layers.split_heads(key, c.num_heads),
    )


def _plain_norm(config: LtgConfig, dtype: DTypeLike) -> nn.LayerNorm:
  return layers.layer_norm(
    config.layer_norm_eps, dtype=dtype, use_scale=False, use_bias=False
  )


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`. There is no final norm."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = Embeddings(c, self.dtype)
    self.relative = layers.Embed(
      2 * c.num_buckets - 1,
      c.hidden_size,
      "positions",
      stddev=c.initializer_range,
      dtype=self.dtype,
    )
    self.relative_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    if self.num_layers > 1:
      self.layers = encoder.stack(Block, self.num_layers - 1)(c, self.dtype)
    self.last = Block(c, self.dtype)

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Shared]:
    """Embeds a batch; its blocks share the relative table."""
    del deterministic
    table = self.relative(np.arange(2 * self.config.num_buckets - 1))
    mask = layers.document_mask(batch.segment_ids)
    return self.embeddings(batch), Shared(self.relative_norm(table), mask)


NAMES = KeyTable(
  prefixes=("",),
  whole={
    "embeddings/word/embedding": "embedding.word_embedding.weight",
    "relative/embedding": "embedding.relative_embedding",
    "relative_norm/scale": "embedding.relative_layer_norm.weight",
    "relative_norm/bias": "embedding.relative_layer_norm.bias",
  },
  block_prefix="transformer.layers.{layer}.",
  block={
    "query_key/kernel": "attention.in_proj_qk.weight",
    "query_key/bias": "attention.in_proj_qk.bias",
    "value/kernel": "attention.in_proj_v.weight",
    "value/bias": "attention.in_proj_v.bias",
    "attention_out/kernel": "attention.out_proj.weight",
    "attention_out/bias": "attention.out_proj.bias",
    "attention_norm/scale": "attention.post_layer_norm.weight",
    "attention_norm/bias": "attention.post_layer_norm.bias",
    "ffn_in/kernel": "mlp.mlp.1.weight",
    "ffn_out/kernel": "mlp.mlp.4.weight",
  },
)

FAMILY = Family(parse_config, Encoder, NAMES, ("query_key", "value"))
