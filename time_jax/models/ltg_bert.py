"""LTG-BERT: the HPLT encoders (v1, v2) and NorBERT 3.

Pre-norm blocks with a second LayerNorm inside both halves, gated
feed-forward, and DeBERTa's attention over 2P - 1 relative positions (Samuel
et al., arXiv 2303.09859). Most LayerNorms have no parameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, relative
from time_jax.models.attention_operands import matrix_mask
from time_jax.models.encoder import Context, Hidden
from time_jax.models.family import Family, KeyTable
from time_jax.models.relative import Shared

LAYOUTS = ("flat", "per_head")


@dataclasses.dataclass(frozen=True)
class LtgConfig(encoder.EvenSizes):
  """Shape of an encoder of this family.

  Attributes:
    num_buckets: P, relative positions of one sign.
    max_positions: longest document, in tokens.
    relative_layout: how the projected relative table is split: "flat" into
      query and key and each into heads (HPLT's training code), "per_head"
      into heads and each into query and key (NorBERT 3; files of 2024).
    layer_norm_eps: epsilon of every LayerNorm.
    initializer_range: standard deviation of fresh weights.
  """

  num_buckets: int = 32
  max_positions: int = 512
  relative_layout: str = "flat"
  layer_norm_eps: float = 1e-7
  initializer_range: float = 0.02

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.relative_layout not in LAYOUTS:
      raise UserError(
        f"relative_layout={self.relative_layout!r} is unknown; expected one "
        f"of {', '.join(LAYOUTS)}."
      )

  def row_of(self, distances: Any) -> np.ndarray:
    """Returns rows of the relative table, for distances query minus key."""
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
  layout = "per_head" if norbert else "flat"
  return encoder.read_fields(
    LtgConfig,
    {"relative_layout": layout, **hf},
    {"num_buckets": "position_bucket_size"},
    initializer_range=LtgConfig.initializer_range,
  )


class Block(encoder.Block):
  """One block; query and key share a projection, as in the files."""

  def setup(self) -> None:  # noqa: D102
    c, width = self.config, self.config.hidden_size
    self.plain_norm = self.layer_norm(use_scale=False, use_bias=False)
    self.query_key = self.dense(2 * width, layers.TO_HEADS)
    self.value = self.dense(width, layers.TO_HEADS)
    self.attention_out = self.dense(width, layers.FROM_HEADS)
    self.attention_norm = self.layer_norm()
    self.ffn_in = self.dense(2 * c.intermediate_size, layers.TO_MLP, False)
    self.ffn_out = self.dense(width, layers.FROM_MLP, False)

  def project(self, x: Hidden) -> Qkv:
    """Computes the three projections of the normed input."""
    x = self.plain_norm(x)
    query, key = jnp.split(self.query_key(x), 2, axis=-1)
    return Qkv(query, key, self.value(x))

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Attends inside documents, by content and by relative position."""
    table, mask = context.shared
    tables = self._split_table(self.query_key(table))
    return relative.attend_disentangled(qkv, mask, self.config, *tables)

  def ffn_hidden(self, x: Hidden) -> Float[Array, "B T F"]:
    """Multiplies the first half by the second, activated, and norms it."""
    inner, gate = jnp.split(self.ffn_in(self.plain_norm(x)), 2, axis=-1)
    return self.plain_norm(inner * layers.ACTIVATIONS["gelu_new"](gate))

  def __call__(self, x: Hidden, context: Context) -> Hidden:
    """Adds LN(attention(LN x)) to x, then the same of the feed-forward."""
    mixed = self.attention(self.project(x), context)
    x = x + self.attention_norm(self.attention_out(mixed))
    return x + self.ffn_out(self.ffn_hidden(x))

  def _split_table(
    self, table: Float[Array, "rows D2"]
  ) -> tuple[Float[Array, "rows N H"], Float[Array, "rows N H"]]:
    """Splits the relative table into queries and keys, by head."""
    if self.config.relative_layout == "per_head":
      query, key = jnp.split(self.split_heads(table), 2, axis=-1)
      return query, key
    query, key = jnp.split(table, 2, axis=-1)
    return self.split_heads(query), self.split_heads(key)


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`. There is no final norm."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = layers.NormedWords(c, self.dtype, False, False)
    self.relative = self.embed(2 * c.num_buckets - 1, "positions")
    self.relative_norm = self.layer_norm()
    self.setup_blocks(Block)

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Shared]:
    """Embeds a batch; its blocks share the relative table."""
    table = self.relative(np.arange(2 * self.config.num_buckets - 1))
    mask = matrix_mask(batch.segment_ids)
    shared = Shared(self.relative_norm(table), mask)
    return self.embeddings(batch.tokens), shared


NAMES = KeyTable(
  prefixes=("",),
  whole={
    "embeddings/word": "embedding.word_embedding",
    "relative/embedding": "embedding.relative_embedding",
    "relative_norm": "embedding.relative_layer_norm",
  },
  block_prefix="transformer.layers.{layer}.",
  block={
    "query_key": "attention.in_proj_qk",
    "value": "attention.in_proj_v",
    "attention_out": "attention.out_proj",
    "attention_norm": "attention.post_layer_norm",
    "ffn_in": "mlp.mlp.1",
    "ffn_out": "mlp.mlp.4",
  },
)


FAMILY = Family(
  parse_config,
  encoder=Encoder,
  names=NAMES,
  projecting=("query_key", "value"),
)
