"""BERT, RoBERTa, CamemBERT and XLM-RoBERTa; the student is a BERT as well.

Post-norm blocks x = LN(x + attention(x)), x = LN(x + ffn(x)) on the sum of
word, position and token-type embeddings (Devlin et al., arXiv 1810.04805).
RoBERTa and its kin are the same network; their position table starts
`pad_token_id + 1` rows later.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from time_jax.arrays import Batch, Ids, Qkv
from time_jax.errors import UserError
from time_jax.models import layers
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

  def __post_init__(self) -> None:
    if self.hidden_size % self.num_heads:
      raise UserError(
        f"num_heads={self.num_heads} must divide hidden_size="
        f"{self.hidden_size}."
      )
    if self.activation not in layers.ACTIVATIONS:
      raise UserError(
        f"activation {self.activation!r} is unknown; known: "
        f"{', '.join(layers.ACTIVATIONS)}."
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
  offset = 0 if hf["model_type"] == "bert" else hf.get("pad_token_id", 1) + 1
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
  )


class Embeddings(nn.Module):
  """LN(word + position + token type), then dropout."""

  config: BertConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    rows = c.max_positions + c.position_offset
    self.word = layers.embed(c.vocab_size, c.hidden_size, "vocab", **how)
    self.position = layers.embed(rows, c.hidden_size, "positions", **how)
    self.token_type = layers.embed(
      c.num_token_types, c.hidden_size, "token_types", **how
    )
    self.norm = layers.layer_norm(c.layer_norm_eps, dtype=self.dtype)
    self.drop = nn.Dropout(c.dropout)

  def __call__(
    self, batch: Batch, token_types: Ids, deterministic: bool
  ) -> Float[Array, "B T D"]:
    """Looks up and sums the three embeddings of every token."""
    x = self.word(batch.tokens)
    x += self.position(batch.positions + self.config.position_offset)
    x += self.token_type(token_types)
    return self.drop(self.norm(x), deterministic=deterministic)


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
    self.drop = nn.Dropout(c.dropout)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's input."""
    return Qkv(self.query(x), self.key(x), self.value(x))

  def __call__(
    self,
    x: Float[Array, "B T D"],
    mask: Bool[Array, "B 1 T T"],
    deterministic: bool,
  ) -> Float[Array, "B T D"]:
    """Attention and feed-forward, each with residual and LayerNorm."""
    c, qkv = self.config, self.project(x)
    rng = None
    if c.attention_dropout and not deterministic:
      rng = self.make_rng("dropout")
    mixed = layers.attend(
      qkv.query,
      qkv.key,
      qkv.value,
      mask,
      num_heads=c.num_heads,
      dropout_rate=c.attention_dropout,
      dropout_rng=rng,
      deterministic=deterministic,
    )
    mixed = self.drop(self.attention_out(mixed), deterministic=deterministic)
    x = self.attention_norm(x + mixed)
    inner = layers.ACTIVATIONS[c.activation](self.ffn_in(x))
    inner = self.drop(self.ffn_out(inner), deterministic=deterministic)
    x = self.ffn_norm(x + inner)
    return nn.with_logical_constraint(x, ("batch", "length", "hidden"))


class _ScannedBlock(Block):
  """The block in the (carry, output) form of nn.scan."""

  def __call__(
    self, x: Array, mask: Array, deterministic: bool
  ) -> tuple[Array, Array]:
    x = super().__call__(x, mask, deterministic)
    return x, x


class Encoder(nn.Module):
  """The first `num_layers` blocks of a network, the last one distilled.

  Parameters: `embeddings`; `layers`, blocks 1 .. num_layers-1 stacked on a
  leading axis; `last`, block `num_layers` by itself, of which a call needs
  only the three projections; `pooler`, never trained and never run here, kept
  because BertModel files have it.

  Attributes:
    config: shape of the network.
    num_layers: blocks up to and including the distilled one.
    dtype: of computation; parameters keep their own.
  """

  config: BertConfig
  num_layers: int
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = Embeddings(c, self.dtype)
    self.layers = nn.scan(
      _ScannedBlock,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=self.num_layers - 1,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c, self.dtype)
    self.last = Block(c, self.dtype)
    self.pooler = layers.dense(
      c.hidden_size,
      ("embed", "heads"),
      stddev=c.initializer_range,
      dtype=self.dtype,
    )

  def __call__(
    self,
    batch: Batch,
    token_types: Ids | None = None,
    *,
    deterministic: bool = True,
  ) -> Qkv:
    """Projections of block `num_layers`; nothing above them is computed.

    Args:
      batch: token rows.
      token_types: zeros if absent, as in training on raw text.
      deterministic: False switches dropout on; needs an rng "dropout".
    """
    _, x = self._below(batch, token_types, deterministic)
    return self.last.project(x)

  def hidden_states(
    self,
    batch: Batch,
    token_types: Ids | None = None,
    *,
    deterministic: bool = True,
  ) -> Float[Array, "states B T D"]:
    """Embedding output and the output of every block: L + 1 states."""
    inputs, x = self._below(batch, token_types, deterministic)
    mask = layers.document_mask(batch.segment_ids)
    return jnp.stack([*inputs, self.last(x, mask, deterministic)])

  def all_outputs(self, batch: Batch) -> tuple[Array, Array]:
    """Touches every parameter; what fresh weights are initialised with."""
    states = self.hidden_states(batch)
    return states, jnp.tanh(self.pooler(states[-1, :, 0]))

  def _below(
    self, batch: Batch, token_types: Ids | None, deterministic: bool
  ) -> tuple[list[Array], Array]:
    """Inputs of every block, and that of the last one."""
    if token_types is None:
      token_types = jnp.zeros_like(batch.tokens)
    x = self.embeddings(batch, token_types, deterministic)
    x = nn.with_logical_constraint(x, ("batch", "length", "hidden"))
    if self.num_layers == 1:
      return [x], x
    mask = layers.document_mask(batch.segment_ids)
    last, outputs = self.layers(x, mask, deterministic)
    return [x, *outputs], last


# Our parameter path -> Hugging Face name; kernels are stored transposed there.
NAMES = KeyTable(
  prefixes=("", "bert.", "roberta."),
  whole={
    "embeddings/word/embedding": "embeddings.word_embeddings.weight",
    "embeddings/position/embedding": "embeddings.position_embeddings.weight",
    "embeddings/token_type/embedding": (
      "embeddings.token_type_embeddings.weight"
    ),
    "embeddings/norm/scale": "embeddings.LayerNorm.weight",
    "embeddings/norm/bias": "embeddings.LayerNorm.bias",
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
)


def feeds_projections(path: tuple[str, ...]) -> bool:
  """Whether the last block's projections depend on the parameter at `path`.

  These are what a teacher needs to keep, and what a student can learn: behind
  the projections no tensor gets a gradient. PyTorch leaves such tensors
  alone; plain AdamW in optax would decay them away.
  """
  if path[0] == "last":
    return path[1] in ("query", "key", "value")
  return path[0] != "pooler"


FAMILY = Family(parse_config, Encoder, NAMES, feeds_projections)
