"""Dot-product attention inside documents, the fastest way on each backend.

`attend_dense` is the definition, and what a program without a mesh gets.
Elsewhere the work goes tile by tile: the T x T scores of all rows and heads are
never there at once, and the gradient keeps only the inputs. On a CPU a tile
stays in the cache. Heads are laid side by side first: XLA multiplies batches of
matrices several times faster there than what an einsum makes of strided ones.
On a TPU JAX's flash attention keeps the scores out of memory, where documents
alone decide what is seen and nothing is dropped; on an NVIDIA GPU cuDNN's does,
in 16 bits, for any mask. What they do not take goes by large tiles.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from time_jax.core.arrays import Ids
from time_jax.models.dropout import Dropout, kept, kept_part
from time_jax.models.layers import split_heads
from time_jax.parallel import sharding

# A logit that no query attends to; finite, so that an empty row gives no NaN.
MASKED = -1e30
# Scores of a tile on a CPU at most: they should stay in the cache. Two heads of
# 512 tokens fit.
_TILE = 2**19
# On an accelerator: 64 MiB in float32, some rows of 512 tokens. A quarter of it
# saves no memory in the step of a student.
_LARGE_TILE = 2**24
_LANES = 128  # of a TPU's vector unit: lengths must be multiples


class _Form(NamedTuple):
  """What is static in a call."""

  num_heads: int
  num_key_heads: int
  scale: float
  rate: float


def attend(
  query: Float[Array, "B T D"],
  key: Float[Array, "B T Dk"],
  value: Float[Array, "B T Dk"],
  mask: Bool[Array, "B 1 T T"] | None,
  *,
  num_heads: int,
  num_key_heads: int | None = None,
  bias: Float[Array, "b n T T"] | None = None,
  scale: float | None = None,
  dropout: Dropout | None = None,
  documents: Ids | None = None,
  window: Int[Array, ""] | int | None = None,
) -> Float[Array, "B T D"]:
  """Multi-head attention with the softmax in float32.

  Args:
    query: projections before the split into heads; likewise key and value.
    key: see query.
    value: see query.
    mask: True where attention is allowed; None where `documents` and `window`
      say it all, which no matrix of all tokens is made of then.
    num_heads: N.
    num_key_heads: fewer heads of key and value, each shared by
      N / num_key_heads query heads in a row; N if absent.
    bias: added to the scaled scores; b is B or 1, n is N or 1.
    scale: of the dot products; 1 / sqrt(H) if absent.
    dropout: on the probabilities; None for none.
    documents: segment ids, if the mask says no more than they do.
    window: without a mask, how many tokens are seen on either side; T or more,
      or None: all of the document.
  """
  form = _Form(
    num_heads=num_heads,
    num_key_heads=num_key_heads or num_heads,
    scale=(query.shape[-1] // num_heads) ** -0.5 if scale is None else scale,
    rate=dropout.rate if dropout else 0.0,
  )
  arrays: dict[str, Any] = dict(query=query, key=key, value=value)
  arrays |= {"documents": documents} if mask is None else {"mask": mask}
  if window is not None:
    arrays["window"] = jnp.asarray(window)
  arrays["rows"] = sharding.row_numbers(query.shape[0])
  arrays["heads"] = jnp.arange(num_heads)
  if bias is not None:
    shape = (bias.shape[0], num_heads, *bias.shape[2:])
    arrays["bias"] = jnp.broadcast_to(bias, shape)
  if dropout:
    arrays["rng"] = jax.random.key_data(dropout.rng)[:2]
  mesh = jax.sharding.get_abstract_mesh()
  platform = _platform(mesh)
  if platform == "any":
    # Computed again in the gradient: T x T matrices of all heads and layers,
    # kept until then, would be most of what a training step holds.
    return jax.checkpoint(functools.partial(attend_dense, form))(**arrays)
  by_documents = documents is not None and bias is None and not dropout
  by_documents &= not (isinstance(window, int) and window < query.shape[1])
  if platform == "tpu" and by_documents and query.shape[1] % _LANES == 0:
    arrays["documents"] = documents
    how = _attend_flash if window is None else _attend_flash_or_near
    return _on_each_device(how, mesh, form, arrays)
  if platform == "cuda" and _fits_cudnn(form, arrays):
    return _on_each_device(_attend_cudnn, mesh, form, arrays)
  tile = _TILE if platform == "cpu" else _LARGE_TILE
  how = functools.partial(_attend_tiled, tile)
  return _on_each_device(how, mesh, form, arrays)


def _on_each_device(
  how: Callable[..., Array], mesh: Any, form: _Form, arrays: dict[str, Any]
) -> Array:
  """Rows and heads stay where they are; nothing else may move them."""
  call = functools.partial(how, form)
  if mesh.size > 1 and mesh.are_all_axes_auto:
    specs = _specs(mesh, form, arrays)
    call = jax.shard_map(
      call, in_specs=(specs,), out_specs=specs["query"], check_vma=False
    )
  return call(arrays)


def attend_dense(
  form: _Form,
  *,
  query: Float[Array, "B T D"],
  key: Float[Array, "B T Dk"],
  value: Float[Array, "B T Dk"],
  rows: Int[Array, " B"],
  heads: Int[Array, " N"],
  mask: Bool[Array, "B 1 T T"] | None = None,
  documents: Ids | None = None,
  window: Int[Array, ""] | None = None,
  bias: Float[Array, "b N T T"] | None = None,
  rng: Array | None = None,
) -> Float[Array, "B T D"]:
  """All heads of all examples at once; see `attend`."""
  shared = form.num_heads // form.num_key_heads
  query_BTNH = split_heads(query, form.num_heads)
  key_BTNH, value_BTNH = (
    jnp.repeat(split_heads(x, form.num_key_heads), shared, axis=2)
    for x in (key, value)
  )
  logits = jnp.einsum(
    "BTNH,BSNH->BNTS",
    query_BTNH * form.scale,
    key_BTNH,
    preferred_element_type=_wide(query),
  )
  logits = logits if bias is None else logits + bias
  if documents is not None:
    mask = _mask(documents, window)
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED)
  weights = jax.nn.softmax(logits, axis=-1)
  if rng is not None:
    length = weights.shape[-1]
    keep = functools.partial(kept, rng, form.rate, length)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
      keep = jax.vmap(keep, axes)
    left = keep(rows, heads, jnp.arange(length))
    weights = jnp.where(left, weights / kept_part(form.rate), 0)
  mixed = jnp.einsum("BNTS,BSNH->BTNH", weights.astype(value.dtype), value_BTNH)
  return mixed.reshape(query.shape)


def _attend_tiled(
  tile: int, form: _Form, arrays: dict[str, Array]
) -> Float[Array, "B T D"]:
  """The same, with no more than `tile` scores at a time.

  A tile is several rows, or some heads of one, or some queries of one head:
  written for one query, looped over as many at once as fit.
  """
  length, num_heads = arrays["query"].shape[1], len(arrays["heads"])
  head_dim = arrays["query"].shape[-1] // num_heads
  shared = form.num_heads // form.num_key_heads
  per_row = dict(arrays)
  rng, heads = per_row.pop("rng", None), per_row.pop("heads")
  window = per_row.pop("window", None)
  # One bias of all rows is not cut into rows: its gradient is summed over them.
  bias = per_row.pop("bias") if len(arrays.get("bias", ())) == 1 else None

  def attend_row(row: dict[str, Array]) -> Float[Array, "T D"]:
    def split(name: str, repeats: int) -> Float[Array, "N T H"]:
      x_NTH = split_heads(row[name], row[name].shape[-1] // head_dim)
      return jnp.repeat(x_NTH.swapaxes(0, 1), repeats, axis=0)

    def attend_head(one: dict[str, Array]) -> Float[Array, "T H"]:
      def attend_query(x: dict[str, Array]) -> Float[Array, " H"]:
        keep = None
        if rng is not None:
          place = row["rows"], one["head"], x["position"]
          keep = kept(rng, form.rate, length, *place)
        if "mask" not in x:
          x |= {"mask": _sees(row["documents"], window, x["position"])}
        return _attend_query(form, x, one["key"], one["value"], keep)

      queries = {"query": one["query"], "position": jnp.arange(length)}
      if "mask" in row:
        queries["mask"] = row["mask"][0]
      if "bias" in one:
        queries["bias"] = one["bias"]
      return _each(attend_query, queries, tile // length)

    parts = {"query": split("query", 1), "head": heads}
    parts |= {name: split(name, shared) for name in ("key", "value")}
    if "bias" in arrays:
      parts["bias"] = row["bias"] if bias is None else bias[0]
    mixed_NTH = _each(attend_head, parts, tile // length**2)
    return mixed_NTH.swapaxes(0, 1).reshape(length, -1)

  return _each(attend_row, per_row, tile // (num_heads * length**2))


def _each(how: Callable[..., Array], xs: Any, at_once: int) -> Array:
  """Maps over the first axis; the gradient computes again what is inside."""
  size = len(jax.tree.leaves(xs)[0])
  at_once = min(max(at_once, 1), size)
  even = max(d for d in range(1, at_once + 1) if size % d == 0)
  # A rest is compiled by itself: only where much would be lost without one.
  at_once = even if 2 * even > at_once else at_once
  return jax.lax.map(jax.checkpoint(how), xs, batch_size=at_once)


def _attend_query(
  form: _Form,
  x: dict[str, Array],
  key: Float[Array, "S H"],
  value: Float[Array, "S H"],
  keep: Bool[Array, " S"] | None,
) -> Float[Array, " H"]:
  """One query of one head; normalised last, where there is less of it."""
  query = x["query"] * form.scale
  logits = jnp.matmul(query, key.T, preferred_element_type=_wide(query))
  logits = logits + x["bias"] if "bias" in x else logits
  logits = jnp.where(x["mask"], logits, MASKED)
  weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits)))
  total = jnp.sum(weights)
  if keep is not None:
    weights = jnp.where(keep, weights, 0)
    total *= kept_part(form.rate)
  mixed = jnp.matmul(
    weights.astype(value.dtype), value, preferred_element_type=_wide(query)
  )
  return (mixed / total).astype(query.dtype)


def _sees(
  documents: Int[Array, " T"],
  window: Int[Array, ""] | None,
  position: Int[Array, ""],
) -> Bool[Array, " T"]:
  """What the token at a place sees of its row; see `attend`."""
  seen = (documents == documents[position]) & (documents > 0)
  if window is None:
    return seen
  return seen & (jnp.abs(jnp.arange(len(documents)) - position) <= window)


def _mask(documents: Ids, window: Int[Array, ""] | None) -> Array:
  """The same of all tokens of all rows, as a matrix: [B, 1, T, T]."""
  places = jnp.arange(documents.shape[1])
  of_row = jax.vmap(_sees, (None, None, 0))
  of_all = jax.vmap(of_row, (0, None, None))
  return of_all(jnp.asarray(documents), window, places)[:, None]


def _attend_flash_or_near(form: _Form, arrays: dict[str, Array]) -> Array:
  """By the kernel where a window holds all, by tiles where it does not.

  Which, may be known only as the program runs: blocks in a scan take turns.
  """
  rest = dict(arrays)
  everyone = rest.pop("window") >= arrays["query"].shape[1]
  return jax.lax.cond(
    everyone,
    lambda: _attend_flash(form, rest),
    lambda: _attend_tiled(_LARGE_TILE, form, arrays),
  )


def _attend_flash(form: _Form, arrays: dict[str, Array]) -> Array:
  """JAX's kernel for TPU, by blocks of up to 512 tokens."""
  query, documents = arrays["query"], arrays["documents"]
  head_dim = query.shape[-1] // len(arrays["heads"])
  shared = form.num_heads // form.num_key_heads

  def split(x: Float[Array, "B T D"], repeats: int) -> Float[Array, "B N T H"]:
    x_BNTH = split_heads(x, x.shape[-1] // head_dim).swapaxes(1, 2)
    return jnp.repeat(x_BNTH, repeats, axis=1)

  length = query.shape[1]
  block = max(b for b in (128, 256, 512) if length % b == 0)
  sizes = {f.name: block for f in dataclasses.fields(flash.BlockSizes)}
  mixed_BNTH = flash.flash_attention(
    split(query, 1),
    split(arrays["key"], shared),
    split(arrays["value"], shared),
    segment_ids=flash.SegmentIds(q=documents, kv=documents),
    sm_scale=form.scale,
    block_sizes=flash.BlockSizes(**sizes | {"block_b": 1}),
  )
  return mixed_BNTH.swapaxes(1, 2).reshape(query.shape)


def _fits_cudnn(form: _Form, arrays: dict[str, Array]) -> bool:
  query = arrays["query"]
  head_dim = query.shape[-1] // form.num_heads
  return (
    "bias" not in arrays
    and "rng" not in arrays
    and query.dtype in (jnp.bfloat16, jnp.float16)
    and query.shape[1] % 2 == 0
    and head_dim % 8 == 0
    and head_dim <= 128
  )


def _attend_cudnn(
  form: _Form, arrays: dict[str, Array], implementation: Any = "cudnn"
) -> Array:
  """Fused attention of cuDNN, through JAX; "xla" is the same call anywhere."""
  query = arrays["query"]
  head_dim = query.shape[-1] // len(arrays["heads"])
  mixed_BTNH = jax.nn.dot_product_attention(
    *(
      split_heads(arrays[name], arrays[name].shape[-1] // head_dim)
      for name in ("query", "key", "value")
    ),
    mask=arrays["mask"]
    if "mask" in arrays
    else _mask(arrays["documents"], arrays.get("window")),
    scale=form.scale,
    implementation=implementation,
  )
  return mixed_BTNH.reshape(query.shape)


def _platform(mesh: Any) -> str:
  """Of the devices that the program is traced for, as its mesh says.

  Nothing else is asked: that would start JAX, perhaps before the processes of
  a run have met. Without a mesh it is "any", which has the definition.
  """
  device = None if mesh.empty else mesh.abstract_device
  if device and device.device_kind.startswith("NVIDIA"):
    return "cuda"
  return device.platform if device else "any"


def _specs(
  mesh: Any, form: _Form, arrays: dict[str, Array]
) -> dict[str, PartitionSpec]:
  """Rows and heads where they are; what does not divide is everywhere."""

  def ways(axes: Any) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)

  rows, heads = nn.logical_to_mesh_axes(("batch", "heads")) or (None, None)
  rows = rows if arrays["query"].shape[0] % ways(rows) == 0 else None
  whole = math.gcd(form.num_heads, form.num_key_heads) % ways(heads) == 0
  heads = heads if whole else None
  wide = PartitionSpec(rows, None, heads)
  bias_rows = rows if len(arrays.get("bias", ())) > 1 else None
  known = {
    "query": wide,
    "key": wide,
    "value": wide,
    "mask": PartitionSpec(rows),
    "documents": PartitionSpec(rows),
    "window": PartitionSpec(),
    "rows": PartitionSpec(rows),
    "heads": PartitionSpec(heads),
    "bias": PartitionSpec(bias_rows, heads),
    "rng": PartitionSpec(),
  }
  return {name: known[name] for name in arrays}


def _wide(x: Array) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)
