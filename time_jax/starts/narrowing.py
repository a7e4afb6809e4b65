r"""A narrower student's first weights, in closed form, from a wide network.

States y of the wide network become y E (`basis`), heads become fewer or
narrower (`heads`), and of the feed-forward units those with most influence
stay: largest Var(gelu(u)) |W2|^2 on text, in the manner of Minitron (arXiv
2407.14679). This gives every linear layer W0 of the narrow one. What is lost on
the way (energy outside E, heads, units, layers in between) is then made up for
as well as a linear layer can, in the order of the network and on the *narrow*
network's own states s, so that errors do not add up (least squares on the
outputs of a pruned layer: He et al., arXiv 1707.06168; Kwon et al., arXiv
2204.09656):

  layer            input      should give         W0
  query, key       s          q', k' (heads)      E' Wq A
  value            s          v'                  E' Wv Av
  attention_out    heads' out attended E - s      Av' Wo E
  ffn_in           s'         inner[units]        E' W1[units]
  ffn_out          gelu       fed E - s'          W2[units] E

  min |Y - S W - b|^2 + lambda |W - W0|^2,  b without a penalty

Scale and shift of each LayerNorm are fitted to the wide one's output times E,
unit by unit: they alone cannot be projected where scales differ.

The result is exact where all states lie in E, scales are equal within a
LayerNorm, and all heads and units that do anything are kept.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch, Qkv
from time_jax.models import stepwise
from time_jax.models.bert import BertConfig, Block, BlockParts
from time_jax.models.family import Params
from time_jax.starts import basis, heads, least_squares
from time_jax.starts.calibration import Calibration, States, activate, normalize

NarrowStates = Float[Array | np.ndarray, "B T d"]
# lambda, of the mean energy of an input. Text has directions that say little.
STRENGTH = 1e-2


@dataclasses.dataclass(frozen=True)
class Narrowed:
  """A narrow network, and what it keeps of the wide one.

  Attributes:
    params: its parameters, float32, on the host.
    basis: E, by which its states are those of the wide network.
    share: share of the energy of the wide network's states that lies in E.
    heads: for each block, the wide block's heads that are kept, from 0.
    units: for each block, the feed-forward units that are kept, from 0.
    unexplained: for the embeddings and each block, squared error of the narrow
      network's states as a share of the variance of the wide one's times E.
  """

  params: Params
  basis: Float[np.ndarray, "D d"]
  share: float
  heads: list[list[int]]
  units: list[list[int]]
  unexplained: list[float]


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What one block is made of: the wide block, its input, what is kept."""

  own: Params
  x: States
  heads: heads.Heads
  units: list[int]


@dataclasses.dataclass(frozen=True)
class _Fit:
  """Fits layers on the tokens of some rows."""

  rows: Calibration
  strength: float
  epsilon: float

  def dense(
    self,
    x: Float[Array | np.ndarray, "B T X"],
    y: Float[Array | np.ndarray, "B T Y"],
    prior: Float[np.ndarray, "X Y"],
  ) -> tuple[Params, Float[np.ndarray, "B T Y"]]:
    """Returns a linear layer from x to y, and what it makes of x."""
    moments = least_squares.Moments.empty(*prior.shape)
    moments.add(self.rows.tokens(x), self.rows.tokens(y))
    layer = _layer(
      *least_squares.solve(moments, prior, self.strength), name="kernel"
    )
    return layer, x @ layer["kernel"] + layer["bias"]

  def norm(
    self, x: NarrowStates, y: NarrowStates
  ) -> tuple[Params, NarrowStates]:
    """Returns scale and shift of a LayerNorm from x to y, and its output."""
    normed = normalize(x, self.epsilon)
    tokens = self.rows.tokens
    layer = _layer(
      *least_squares.scale_and_shift(tokens(normed), tokens(y)), name="scale"
    )
    return layer, normed * layer["scale"] + layer["bias"]


def _layer(weight: np.ndarray, bias: np.ndarray, name: str) -> Params:
  return {name: weight.astype(np.float32), "bias": bias.astype(np.float32)}


def narrow(
  params: Params,
  source: BertConfig,
  fresh: Params,
  shape: BertConfig,
  layers: Sequence[int],
  rows: Batch,
  kind: str = "components",
  strength: float = STRENGTH,
) -> Narrowed:
  """Returns a narrow network that computes nearly what a wide one does.

  Args:
    params: parameters of the wide network, every block whole.
    source: its sizes.
    fresh: random parameters of the narrow network, of which it keeps what
      the wide one does not have: the pooler, token types, part of wider heads.
    shape: its sizes: none larger than those of `source`.
    layers: the wide network's layer, from 1, for each of the narrow one's.
    rows: some thousand tokens of text.
    kind: a key of `basis.BASES`.
    strength: lambda as a share of the mean energy of a layer's input; very
      large: W0 as it is.
  """
  params, fresh = jax.device_get((params, fresh))
  text = Calibration(rows)
  moment, plans = _observe(params, source, shape, layers, text)
  e = basis.BASES[kind](moment, shape.hidden_size)
  fit = _Fit(text, strength, shape.layer_norm_eps)
  embeddings, s, y = _embeddings(params, source, fresh, shape, e, fit)
  unexplained = [_unexplained(text, s, y @ e)]
  blocks = []
  for plan, other in zip(plans, _blocks(fresh), strict=True):
    parts = text.parts(Block(source), plan.own, plan.x)
    block, s = _narrow_block(plan, parts, s, e, shape, fit)
    _waken(block, plan.heads, other)
    blocks.append(block)
    unexplained.append(_unexplained(text, s, parts.output @ e))
  narrow_params = dict(fresh) | {"embeddings": embeddings, "last": blocks[-1]}
  if len(blocks) > 1:
    narrow_params["layers"] = jax.tree.map(
      lambda *leaves: np.stack(leaves), *blocks[:-1]
    )
  return Narrowed(
    params=narrow_params,
    basis=e,
    share=basis.share(moment, e),
    heads=[plan.heads.kept for plan in plans],
    units=[plan.units for plan in plans],
    unexplained=unexplained,
  )


def _blocks(params: Params) -> list[Params]:
  whole = stepwise.unstack(params)
  return [*whole.get("layers", ()), whole["last"]]


def _observe(
  params: Params,
  source: BertConfig,
  shape: BertConfig,
  layers: Sequence[int],
  text: Calibration,
) -> tuple[Float[np.ndarray, "D D"], list[_Plan]]:
  """Runs the wide network on text.

  Returns:
    The second moment of what its LayerNorms read and give, each as large as the
    others, in the embeddings and the wanted layers; what each is made of.
  """
  blocks = _blocks(params)
  summed = text.embed(params["embeddings"], source.position_offset)
  x = _normed(summed, params["embeddings"]["norm"], source)
  moment = _moment(text, summed) + _moment(text, x)
  plans: dict[int, _Plan] = {}
  for layer in range(1, max(layers) + 1):
    own = blocks[layer - 1]
    parts = text.parts(Block(source), own, x)
    if layer in layers:
      states = (parts.attended, parts.normed, parts.fed, parts.output)
      moment += sum(_moment(text, state) for state in states)
      plans[layer] = _plan(own, x, parts, source, shape, text)
    x = parts.output
  return moment, [plans[layer] for layer in layers]


def _plan(
  own: Params,
  x: States,
  parts: BlockParts,
  source: BertConfig,
  shape: BertConfig,
  text: Calibration,
) -> _Plan:
  """Chooses heads and units of a block."""
  query, key, value, mixed = (
    text.tokens(part).reshape(-1, source.num_heads, source.head_dim)
    for part in (parts.qkv.query, parts.qkv.key, parts.qkv.value, parts.mixed)
  )
  energies = heads.energies(mixed, own["attention_out"]["kernel"])
  kept = basis.largest(energies, shape.num_heads)
  influence = text.tokens(parts.hidden).var(0)
  influence *= np.square(own["ffn_out"]["kernel"]).sum(1)
  return _Plan(
    own=own,
    x=x,
    heads=heads.narrow(query, key, value, kept, shape.head_dim),
    units=basis.largest(influence, shape.intermediate_size),
  )


def _embeddings(
  params: Params,
  source: BertConfig,
  fresh: Params,
  shape: BertConfig,
  e: Float[np.ndarray, "D d"],
  fit: _Fit,
) -> tuple[Params, NarrowStates, States]:
  """Returns the narrow network's embeddings, its states and the wide one's."""
  wide = params["embeddings"]
  word, position, types = (
    np.asarray(wide[name]["embedding"]) @ e.astype(np.float32)
    for name in ("word", "position", "token_type")
  )
  start = source.position_offset
  types = types[: shape.num_token_types]
  other_types = fresh["embeddings"]["token_type"]["embedding"][len(types) :]
  embeddings = {
    "word": {"embedding": word},
    "position": {"embedding": position[start : start + shape.max_positions]},
    "token_type": {"embedding": np.concatenate([types, other_types])},
  }
  y = _normed(fit.rows.embed(wide, start), wide["norm"], source)
  summed = fit.rows.embed(embeddings, shape.position_offset)
  embeddings["norm"], s = fit.norm(summed, y @ e)
  return embeddings, s, y


def _narrow_block(
  plan: _Plan,
  parts: BlockParts,
  s: NarrowStates,
  e: Float[np.ndarray, "D d"],
  shape: BertConfig,
  fit: _Fit,
) -> tuple[Params, NarrowStates]:
  """Returns a block of the narrow network, and its output of s."""
  own, maps, units, width = plan.own, plan.heads, plan.units, e.shape[1]
  kernels = {name: np.asarray(own[name]["kernel"]) for name in _LINEAR}
  by_head = {"query": maps.query, "key": maps.query, "value": maps.value}
  # All three at once: the sums over their input are the same.
  projections, projected = fit.dense(
    s,
    np.concatenate(
      [getattr(parts.qkv, name) @ to for name, to in by_head.items()], -1
    ),
    np.concatenate(
      [e.T @ kernels[name] @ to for name, to in by_head.items()], -1
    ),
  )
  cut = [
    jax.tree.map(lambda leaf, i=i: leaf[..., i : i + width], projections)
    for i in range(0, 3 * width, width)
  ]
  block = dict(zip(by_head, cut, strict=True))
  qkv = Qkv(*jnp.split(jnp.asarray(projected), 3, axis=-1))
  mixed = fit.rows.attend(qkv, shape.num_heads)
  block["attention_out"], added = fit.dense(
    mixed, parts.attended @ e - s, maps.out @ kernels["attention_out"] @ e
  )
  block["attention_norm"], s = fit.norm(s + added, parts.normed @ e)
  block["ffn_in"], inner = fit.dense(
    s, parts.inner[..., units], e.T @ kernels["ffn_in"][:, units]
  )
  block["ffn_out"], added = fit.dense(
    activate(inner, shape.activation),
    parts.fed @ e - s,
    kernels["ffn_out"][units] @ e,
  )
  block["ffn_norm"], s = fit.norm(s + added, parts.output @ e)
  return block, s


def _waken(block: Params, maps: heads.Heads, fresh: Params) -> None:
  """Gives fresh weights to what a head has besides, if it is wider.

  Its keys, and what reads its values, stay zero: the block computes the same.
  Were all of it zero, its gradient would be zero for ever.
  """
  for name, to in (("query", maps.query), ("value", maps.value)):
    empty = ~to.any(0)
    block[name]["kernel"][:, empty] = fresh[name]["kernel"][:, empty]


_LINEAR = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")


def _normed(x: States, norm: Params, source: BertConfig) -> States:
  normed = normalize(x, source.layer_norm_eps)
  return normed * np.asarray(norm["scale"]) + np.asarray(norm["bias"])


def _moment(text: Calibration, x: States) -> Float[np.ndarray, "D D"]:
  """Returns the sum of x x' over tokens, divided by its trace."""
  x = text.tokens(x)
  moment = x.T @ x
  return moment / np.trace(moment)


def _unexplained(text: Calibration, s: States, y: States) -> float:
  s, y = text.tokens(s), text.tokens(y)
  return float(np.sum((s - y) ** 2) / np.sum((y - y.mean(0)) ** 2))
