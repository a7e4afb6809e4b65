"""ModernBERT, mmBERT and Ettin encoders.

Pre-norm blocks with rotary positions and a gated feed-forward; every third
block sees the whole document, the others a window (Warner et al., arXiv
2412.13663). Distil a global block: in a local one only near tokens ever met.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.models import encoder, layers, rotary
from time_jax.models.attention import attend
from time_jax.models.family import Family, KeyTable

# Kinds of blocks.
LOCAL, GLOBAL = 0, 1
_KINDS = {"sliding_attention": LOCAL, "full_attention": GLOBAL}


@dataclasses.dataclass(frozen=True)
class ModernBertConfig:
  """Shape of an encoder of this family.

  Attributes:
    vocab_size: rows of the word table.
    hidden_size: D.
    num_layers: transformer blocks of the complete network.
    num_heads: attention heads N.
    intermediate_size: F.
    kinds: LOCAL or GLOBAL, for each block.
    window: a local block sees this many tokens on either side.
    thetas: RoPE's base in local and in global blocks.
    max_positions: longest document, in tokens.
    norm_bias: whether LayerNorms have a bias; likewise:
    attention_bias: the attention's projections;
    mlp_bias: the feed-forward's.
    layer_norm_eps: epsilon of every LayerNorm.
    activation: a key of `layers.ACTIVATIONS`.
    initializer_range: standard deviation of fresh weights.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  intermediate_size: int
  kinds: tuple[int, ...]
  window: int
  thetas: tuple[float, float]
  max_positions: int = 8192
  norm_bias: bool = False
  attention_bias: bool = False
  mlp_bias: bool = False
  layer_norm_eps: float = 1e-5
  activation: str = "gelu"
  initializer_range: float = 0.02

  def __post_init__(self) -> None:
    layers.check_shape(
      hidden_size=self.hidden_size,
      num_heads=self.num_heads,
      activation=self.activation,
    )

  @property
  def head_dim(self) -> int:
    """Width of an attention head."""
    return self.hidden_size // self.num_heads

  @property
  def widths(self) -> dict[str, int]:
    """Of the three projections."""
    return dict.fromkeys(("query", "key", "value"), self.hidden_size)


def parse_config(hf: Mapping[str, Any]) -> ModernBertConfig:
  """Reads a Hugging Face config.json (transformers 4.x or 5.x)."""
  kinds, thetas = _kinds(hf), _thetas(hf)
  return ModernBertConfig(
    vocab_size=hf["vocab_size"],
    hidden_size=hf["hidden_size"],
    num_layers=hf["num_hidden_layers"],
    num_heads=hf["num_attention_heads"],
    intermediate_size=hf["intermediate_size"],
    kinds=kinds,
    window=hf["local_attention"] // 2,
    thetas=thetas,
    max_positions=hf["max_position_embeddings"],
    norm_bias=hf.get("norm_bias", False),
    attention_bias=hf.get("attention_bias", False),
    mlp_bias=hf.get("mlp_bias", False),
    layer_norm_eps=hf.get("norm_eps", 1e-5),
    activation=hf.get("hidden_activation", "gelu"),
    initializer_range=hf.get("initializer_range", 0.02),
  )


def _kinds(hf: Mapping[str, Any]) -> tuple[int, ...]:
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
  """RoPE's bases of local and global blocks."""
  of_all = rotary.theta_of(hf, hf.get("global_rope_theta", 160_000.0))
  scaled = hf.get("rope_scaling")  # transformers 4.x; refused unless default
  rotary.theta_of(scaled or {}, of_all)
  ropes = hf.get("rope_parameters") or {}  # transformers 5.x
  return (
    rotary.theta_of(
      ropes.get("sliding_attention") or {},
      hf.get("local_rope_theta") or of_all,
    ),
    rotary.theta_of(ropes.get("full_attention") or {}, of_all),
  )


class Shared(NamedTuple):
  """What all blocks use, for each kind of block."""

  segment_ids: Ids
  angles: Float[Array, "kinds B T half"]


class Embeddings(nn.Module):
  """LN(word)."""

  config: ModernBertConfig
  dtype: DTypeLike = jnp.dtype("float32")

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how = dict(stddev=c.initializer_range, dtype=self.dtype)
    self.word = layers.Embed(c.vocab_size, c.hidden_size, "vocab", **how)
    self.norm = _norm(c, self.dtype)

  def __call__(self, batch: Batch) -> Float[Array, "B T D"]:
    """Looks every token up."""
    return self.norm(self.word(batch.tokens))


class Block(nn.Module):
  """One pre-norm block; the projections are one matrix, as in the files.

  Attributes:
    config: of the network.
    dtype: of computation.
    first: whether this is block 1, whose attention has no LayerNorm: the
      embeddings have just had theirs.
  """

  config: ModernBertConfig
  dtype: DTypeLike = jnp.dtype("float32")
  first: bool = False

  def setup(self) -> None:  # noqa: D102
    c = self.config
    how: Any = dict(stddev=c.initializer_range, dtype=self.dtype)
    attention = how | dict(use_bias=c.attention_bias)
    mlp = how | dict(use_bias=c.mlp_bias)
    if not self.first:
      self.attention_norm = _norm(c, self.dtype)
    self.projections = layers.dense(
      3 * c.hidden_size, ("embed", "heads"), **attention
    )
    self.attention_out = layers.dense(
      c.hidden_size, ("heads", "embed"), **attention
    )
    self.ffn_norm = _norm(c, self.dtype)
    self.ffn_in = layers.dense(2 * c.intermediate_size, ("embed", "mlp"), **mlp)
    self.ffn_out = layers.dense(c.hidden_size, ("mlp", "embed"), **mlp)

  def project(self, x: Float[Array, "B T D"]) -> Qkv:
    """The three projections of the block's normed input, not rotated."""
    x = x if self.first else self.attention_norm(x)
    return Qkv(*jnp.split(self.projections(x), 3, axis=-1))

  def rotate(self, qkv: Qkv, kind: Any, shared: Shared) -> Qkv:
    """Turns query and key by their positions."""
    angle = shared.angles[kind]
    query, key = (rotary.rotate(x, angle) for x in (qkv.query, qkv.key))
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
      documents=shared.segment_ids,
      window=_window(c, kind, x.shape[1]),
    )
    x = x + self.attention_out(mixed)
    # The first half is activated, the second is linear.
    inner, linear = jnp.split(self.ffn_in(self.ffn_norm(x)), 2, axis=-1)
    inner = layers.ACTIVATIONS[c.activation](inner)
    return x + self.ffn_out(inner * linear)


def _window(
  config: ModernBertConfig, kind: Any, length: int
) -> Int[Array, ""] | int | None:
  """What a block of a kind sees on either side; see `attend`."""
  if isinstance(kind, jax.Array):  # In a scan it is known as the program runs.
    return jnp.where(kind == LOCAL, config.window, length)
  return config.window if kind == LOCAL else None


def _norm(config: ModernBertConfig, dtype: DTypeLike) -> nn.LayerNorm:
  return layers.layer_norm(
    config.layer_norm_eps, dtype=dtype, use_bias=config.norm_bias
  )


class Encoder(encoder.Encoder):
  """See `encoder.Encoder`."""

  def setup(self) -> None:  # noqa: D102
    c = self.config
    self.embeddings = Embeddings(c, self.dtype)
    if self.num_layers > 1:
      self.first = Block(c, self.dtype, first=True)
    if self.num_layers > 2:
      self.layers = encoder.stack(Block, self.num_layers - 2)(c, self.dtype)
    self.last = Block(c, self.dtype, first=self.num_layers == 1)
    self.final_norm = _norm(c, self.dtype)

  def kinds(self) -> np.ndarray:
    """LOCAL or GLOBAL for each block."""
    return np.array(self.config.kinds[: self.num_layers], np.int32)

  def enter(
    self, batch: Batch, deterministic: bool
  ) -> tuple[Float[Array, "B T D"], Shared]:
    """Embeds a batch; its blocks share documents and angles."""
    del deterministic
    c = self.config
    angles = [
      rotary.angles(batch.positions, c.head_dim, theta) for theta in c.thetas
    ]
    shared = Shared(batch.segment_ids, jnp.stack(angles))
    return self.embeddings(batch), shared

  def leave(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The final norm."""
    return self.final_norm(x)


NAMES = KeyTable(
  prefixes=("", "model."),
  whole={
    "embeddings/word/embedding": "embeddings.tok_embeddings.weight",
    "embeddings/norm/scale": "embeddings.norm.weight",
    "embeddings/norm/bias": "embeddings.norm.bias",
    "final_norm/scale": "final_norm.weight",
    "final_norm/bias": "final_norm.bias",
  },
  block_prefix="layers.{layer}.",
  block={
    "attention_norm/scale": "attn_norm.weight",
    "attention_norm/bias": "attn_norm.bias",
    "projections/kernel": "attn.Wqkv.weight",
    "projections/bias": "attn.Wqkv.bias",
    "attention_out/kernel": "attn.Wo.weight",
    "attention_out/bias": "attn.Wo.bias",
    "ffn_norm/scale": "mlp_norm.weight",
    "ffn_norm/bias": "mlp_norm.bias",
    "ffn_in/kernel": "mlp.Wi.weight",
    "ffn_in/bias": "mlp.Wi.bias",
    "ffn_out/kernel": "mlp.Wo.weight",
    "ffn_out/bias": "mlp.Wo.bias",
  },
)

FAMILY = Family(
  parse_config, Encoder, NAMES, ("attention_norm", "projections"), rotary=True
)
