"""BERT, RoBERTa, CamemBERT, XLM-R and ELECTRA; the student is a BERT too.

Post-norm blocks x = LN(x + attention(x)), x = LN(x + ffn(x)) on the sum of
word, position and token-type embeddings (Devlin et al., arXiv 1810.04805).
RoBERTa and its kin are the same network; their position table starts
`pad_token_id + 1` rows later. ELECTRA (arXiv 2003.10555; its discriminator)
may embed in fewer dimensions and project up.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from time_jax.core.arrays import Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers
from time_jax.models.attention import Dropout, attend
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Shape of an encoder of this family. Immutable and hashable.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: transformer blocks of the complete network.
    num_heads: attention heads N.
    intermediate_size: F.
    max_positions: longest document, in tokens.
    position_offset: first row of the position table that is used.
    num_token_types: rows of the token-type table.
    layer_norm_eps: epsilon of every LayerNorm.
    activation: a key of `layers.ACTIVATIONS`.
    dropout: on embeddings and on the output of each sub-layer.
    attention_dropout: on attention probabilities.
    initializer_range: standard deviation of fresh weights.
    embedding_size: width of the embeddings; D unless ELECTRA projects them.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  intermediate_size: int
  max_positions: int = 512
  position_offset: int = 0
  num_token_types: int = 2
  layer_norm_eps: float = 1e-12
  activation: str = "gelu"
  dropout: float = 0.0
  attention_dropout: float = 0.0
  initializer_range: float = 0.02
  embedding_size: int | None = None

  @property
  def head_dim(self) -> int:
    """Width of an attention head."""
    return self.hidden_size // self.num_heads

  @property
  def widths(self) -> dict[str, int]:
    """Of the three projections."""
    return dict.fromkeys(("query", "key", "value"), self.hidden_size)

  def __post_init__(self) -> None:
    layers.check_shape(
      hidden_size=self.hidden_size,
      num_heads=self.num_heads,
      activation=self.activation,
    )


def parse_config(hf: Mapping[str, Any]) -> BertConfig:
  """Reads a Hugging Face config.json (transformers 4.x or 5.x).

  Dropout is left at 0: a teacher is deterministic.
  """
  kind = hf.get("position_embedding_type") or "absolute"
  if kind != "absolute":
    raise UserError(
      f"position_embedding_type={kind!r} is not supported; expected 'absolute'."
    )
  roberta = hf["model_type"] not in ("bert", "electra")
  offset = position_offset(hf) if roberta else 0
  return BertConfig(
    vocab_size=hf["vocab_size"],
    hidden_size=hf["hidden_size"],
    num_layers=hf["num_hidden_layers"],
    num_heads=hf["num_attention_heads"],
    intermediate_size=hf["intermediate_size"],
    max_positions=hf["max_position_embeddings"] - offset,
    position_offset=offset,
    num_token_types=hf.get("type_vocab_size", 2),
    layer_norm_eps=hf.get("layer_norm_eps", 1e-12),
    activation=hf.get("hidden_act", "gelu"),
    initializer_range=hf.get("initializer_range", 0.02),
    embedding_size=hf.get("embedding_size"),
  )


def position_offset(hf: Mapping[str, Any]) -> int:
  """First row that RoBERTa uses of its position table: behind the padding id.

  That id may be -1, of a model whose positions begin with the first row.

  Raises:
    UserError: config.json names no id that positions can be counted from.
  """
  pad, rows = hf.get("pad_token_id", 1), hf["max_position_embeddings"]
  if type(pad) is not int or not -1 <= pad < rows - 1:
    raise UserError(
      f"pad_token_id={pad!r}, from which RoBERTa counts its {rows} positions; "
      f"expected a whole number from -1 to {rows - 2}, most often 1: set what "
      "the model was trained with."
    )
  return pad + 1


class Shared(NamedTuple):
  """What all blocks use."""

  mask: Bool[Array, "B 1 T T"]
  segment_ids: Ids


class Embeddings(nn.Module):
  """LN(word + position + token type), dropout; ELECTRA's are projected to D."""

  config: BertConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    rows = c.max_positions + c.position_offset
    width = c.embedding_size or c.hidden_size
    self.word = layers.Embed(c.vocab_size, width, "vocab", **how)
    self.position = layers.Embed(rows, width, "positions", **how)
    self.token_type = layers.Embed(
      c.num_token_types, width, "token_types", **how
    )
    self.norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    self.drop = layers.Dropout(c.dropout)
    if width != c.hidden_size:
      self.project = layers.dense(c.hidden_size, ("vectors", "embed"), **how)

  def __call__(
    self, batch: Batch, deterministic: bool
  ) -> Float[Array, "B T D"]:
    """Looks up and sums the three embeddings of every token."""
    x = self.word(batch.tokens)
    x += self.position(batch.positions + self.config.position_offset)
    types = batch.token_types
    if types is None:
      types = jnp.zeros_like(batch.tokens)
    x += self.token_type(types)
    x = self.drop(self.norm(x), deterministic=deterministic)
    return self.project(x) if x.shape[-1] != self.config.hidden_size else x


class Block(nn.Module):
  """One post-norm transformer block."""

  config: BertConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    self.query = layers.dense(c.hidden_size, ("embed", "heads"), **how)
    self.key = layers.dense(c.hidden_size, ("embed", "heads"), **how)
    self.value = layers.dense(c.hidden_size, ("embed", "heads"), **how)
    self.attention_out = layers.dense(c.hidden_size, ("heads", "embed"), **how)
    self.attention_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    self.ffn_in = layers.dense(c.intermediate_size, ("embed", "mlp"), **how)
    self.ffn_out = layers.dense(c.hidden_size, ("mlp", "embed"), **how)
    self.ffn_norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    self.drop = layers.Dropout(c.dropout)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's input."""
    return Qkv(self.query(x), self.key(x), self.value(x))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    kind: Any,
    shared: Shared,
    deterministic: bool = True,
  ) -> Float[Array, "B T D"]:
    """Attention and feed-forward, each with residual and LayerNorm."""
    del kind
    c, qkv = self.config, self.project(x)
    dropout = None
    if c.attention_dropout and not deterministic:
      dropout = Dropout(c.attention_dropout, self.make_rng("dropout"))
    mixed = attend(
      qkv.query,
      qkv.key,
      qkv.value,
      shared.mask,
      num_heads=c.num_heads,
      dropout=dropout,
      documents=shared.segment_ids,
    )
    mixed = self.drop(self.attention_out(mixed), deterministic=deterministic)
    x = self.attention_norm(x + mixed)
    inner = layers.ACTIVATIONS[c.activation](self.ffn_in(x))
    inner = self.drop(self.ffn_out(inner), deterministic=deterministic)
    return self.ffn_norm(x + inner)


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`; `pooler` is kept because BertModel files have it."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = Embeddings(c, self.dtype)
    if self.num_layers > 1:
      self.layers = encoder.stack(Block, self.num_layers - 1)(c, self.dtype)
    self.last = Block(c, self.dtype)
    self.pooler = layers.dense(
      c.hidden_size,
      ("embed", "heads"),
      stddev=c.initializer_range,
      dtype=self.dtype,
    )

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Shared]:
    """Embeds a batch; its blocks share what may be seen."""
    mask = layers.document_mask(batch.segment_ids)
    x = self.embeddings(batch, deterministic)
    return x, Shared(mask, batch.segment_ids)

  def all_outputs(self, batch: Batch) -> tuple[Array, Array]:
    """Touches every parameter, the pooler's too."""
    states = self.hidden_states(batch)
    return states, jnp.tanh(self.pooler(states[-1, :, 0]))


# Our parameter path -> Hugging Face name; kernels are stored transposed there.
NAMES = KeyTable(
  prefixes=("", "bert.", "roberta.", "electra."),
  whole={
    "embeddings/word/embedding": "embeddings.word_embeddings.weight",
    "embeddings/position/embedding": "embeddings.position_embeddings.weight",
    "embeddings/token_type/embedding": (
      "embeddings.token_type_embeddings.weight"
    ),
    "embeddings/norm/scale": "embeddings.LayerNorm.weight",
    "embeddings/norm/bias": "embeddings.LayerNorm.bias",
    "embeddings/project/kernel": "embeddings_project.weight",
    "embeddings/project/bias": "embeddings_project.bias",
    "pooler/kernel": "pooler.dense.weight",
    "pooler/bias": "pooler.dense.bias",
  },
  block_prefix="encoder.layer.{layer}.",
  block={
    "query/kernel": "attention.self.query.weight",
    "query/bias": "attention.self.query.bias",
    "key/kernel": "attention.self.key.weight",
    "key/bias": "attention.self.key.bias",
    "value/kernel": "attention.self.value.weight",
    "value/bias": "attention.self.value.bias",
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
  # Files converted from TensorFlow before 2019.
  aliases={
    "LayerNorm.weight": "LayerNorm.gamma",
    "LayerNorm.bias": "LayerNorm.beta",
  },
)


FAMILY = Family(parse_config, Encoder, NAMES, ("query", "key", "value"))
