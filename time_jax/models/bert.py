"""BERT, RoBERTa, CamemBERT, XLM-R and ELECTRA; the student is a BERT too.

Post-norm blocks x = LN(x + attention(x)), x = LN(x + ffn(x)) on the sum of
word, position and token-type embeddings (Devlin et al., arXiv 1810.04805).
RoBERTa and its kin are the same network; their position table starts
`pad_token_id + 1` rows later. ELECTRA (arXiv 2003.10555; its discriminator)
may embed in fewer dimensions and project up.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.core.arrays import PROJECTIONS, Batch, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask, matrix_mask
from time_jax.models.dropout import AttentionDropout, Dropout
from time_jax.models.encoder import Context, Hidden
from time_jax.models.family import Family, KeyTable


@dataclasses.dataclass(frozen=True)
class BertConfig(encoder.EvenSizes):
  """Shape of an encoder of this family. Immutable and hashable.

  Attributes:
    max_positions: longest document, in tokens.
    position_offset: first row of the position table that is used.
    num_token_types: rows of the token-type table.
    layer_norm_eps: epsilon of every LayerNorm.
    activation: a key of `layers.ACTIVATIONS`.
    dropout: rate on embeddings and on the output of each sub-layer.
    attention_dropout: rate on attention probabilities.
    initializer_range: standard deviation of fresh weights.
    embedding_size: width of the embeddings; None for D, which ELECTRA may
      differ from.
  """

  max_positions: int = 512
  position_offset: int = 0
  num_token_types: int = 2
  layer_norm_eps: float = 1e-12
  activation: str = "gelu"
  dropout: float = 0.0
  attention_dropout: float = 0.0
  initializer_range: float = 0.02
  embedding_size: int | None = None


def parse_config(hf: Mapping[str, Any]) -> BertConfig:
  """Reads a Hugging Face config.json (transformers 4.x or 5.x).

  Dropout is 0: a teacher is deterministic.
  """
  kind = hf.get("position_embedding_type") or "absolute"
  if kind != "absolute":
    raise UserError(
      f"position_embedding_type={kind!r} is not supported; expected 'absolute'."
    )
  roberta = hf["model_type"] not in ("bert", "electra")
  offset = position_offset(hf) if roberta else 0
  return encoder.read_fields(
    BertConfig,
    hf,
    {"num_token_types": "type_vocab_size"},
    max_positions=hf["max_position_embeddings"] - offset,
    position_offset=offset,
    dropout=0.0,
    attention_dropout=0.0,
  )


def position_offset(hf: Mapping[str, Any]) -> int:
  """Returns the first row of its position table that RoBERTa uses.

  It is the one after the padding id, which may be -1.

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


class Embeddings(layers.Parts, nn.Module):
  """LN(word + position + token type), dropout; ELECTRA's are projected to D."""

  config: BertConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    rows = c.max_positions + c.position_offset
    width = c.embedding_size or c.hidden_size
    self.word = self.embed(c.vocab_size, "vocab", width)
    self.position = self.embed(rows, "positions", width)
    self.token_type = self.embed(c.num_token_types, "token_types", width)
    self.norm = self.layer_norm()
    self.drop = Dropout(c.dropout)
    if width != c.hidden_size:
      self.project = self.dense(c.hidden_size, ("vectors", "embed"))

  def __call__(self, batch: Batch, deterministic: bool) -> Hidden:
    """Looks up and adds the three embeddings of every token."""
    x = self.word(batch.tokens)
    x += self.position(batch.positions + self.config.position_offset)
    types = batch.token_types
    x += self.token_type(
      jnp.zeros_like(batch.tokens) if types is None else types
    )
    x = self.drop(self.norm(x), deterministic=deterministic)
    return self.project(x) if x.shape[-1] != self.config.hidden_size else x


class BlockParts(NamedTuple):
  """What a block computes on its way from x, its input, to its output.

  Attributes:
    qkv: the three projections of x.
    mixed: output of the heads, before the layer that adds it to x.
    attended: x + attention: input of the first LayerNorm.
    normed: output of the first LayerNorm, input of the feed-forward layer.
    inner: the wide half of the feed-forward layer, before the activation.
    hidden: the same after it.
    fed: normed + feed-forward: input of the second LayerNorm.
    output: the block's output.
  """

  qkv: Qkv
  mixed: Hidden
  attended: Hidden
  normed: Hidden
  inner: Float[Array, "B T F"]
  hidden: Float[Array, "B T F"]
  fed: Hidden
  output: Hidden


class Block(encoder.Block):
  """One post-norm transformer block."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.query = self.dense(c.hidden_size, layers.TO_HEADS)
    self.key = self.dense(c.hidden_size, layers.TO_HEADS)
    self.value = self.dense(c.hidden_size, layers.TO_HEADS)
    self.attention_out = self.dense(c.hidden_size, layers.FROM_HEADS)
    self.attention_norm = self.layer_norm()
    self.ffn_in = self.dense(c.intermediate_size, layers.TO_MLP)
    self.ffn_out = self.dense(c.hidden_size, layers.FROM_MLP)
    self.ffn_norm = self.layer_norm()
    self.drop = Dropout(c.dropout)

  def project(self, x: Hidden) -> Qkv:
    """Computes the three projections of the block's input."""
    return Qkv(self.query(x), self.key(x), self.value(x))

  def attention(self, qkv: Qkv, context: Context) -> Hidden:
    """Attends inside documents; blocks share the mask."""
    c, dropout = self.config, None
    if c.attention_dropout and not context.deterministic:
      dropout = AttentionDropout(c.attention_dropout, self.make_rng("dropout"))
    return attend(qkv, context.shared, num_heads=c.num_heads, dropout=dropout)

  def parts(self, x: Hidden, context: Context) -> BlockParts:
    """Computes attention and feed-forward, each with residual and LayerNorm."""
    drop = functools.partial(self.drop, deterministic=context.deterministic)
    qkv = self.project(x)
    mixed = self.attention(qkv, context)
    attended = x + drop(self.attention_out(mixed))
    normed = self.attention_norm(attended)
    inner = self.ffn_in(normed)
    hidden = layers.ACTIVATIONS[self.config.activation](inner)
    fed = normed + drop(self.ffn_out(hidden))
    output = self.ffn_norm(fed)
    return BlockParts(qkv, mixed, attended, normed, inner, hidden, fed, output)

  def __call__(self, x: Hidden, context: Context) -> Hidden:
    """Computes the block's output."""
    return self.parts(x, context).output


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`; `pooler` is kept because BertModel files have it."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = Embeddings(c, self.dtype)
    self.setup_blocks(Block)
    self.pooler = self.dense(c.hidden_size, layers.TO_HEADS)

  def enter(self, batch: Batch, deterministic: bool) -> tuple[Hidden, Mask]:
    """Embeds a batch; its blocks share the mask."""
    mask = matrix_mask(batch.segment_ids)
    return self.embeddings(batch, deterministic), mask

  def all_outputs(self, batch: Batch) -> tuple[Array, Array]:
    """Uses every parameter, the pooler's too."""
    states = self.hidden_states(batch)
    return states, jnp.tanh(self.pooler(states[-1, :, 0]))


NAMES = KeyTable(
  prefixes=("", "bert.", "roberta.", "electra."),
  whole={
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/token_type": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "embeddings/project": "embeddings_project",
    "pooler": "pooler.dense",
  },
  block_prefix="encoder.layer.{layer}.",
  block={
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
  },
  # Files converted from TensorFlow before 2019.
  aliases={
    "LayerNorm.weight": "LayerNorm.gamma",
    "LayerNorm.bias": "LayerNorm.beta",
  },
)


FAMILY = Family(
  parse_config,
  encoder=Encoder,
  names=NAMES,
  projecting=tuple(PROJECTIONS.values()),
)
