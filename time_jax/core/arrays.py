"""The groups of arrays that flow through time_jax. Read this file first.

Letters in shape annotations, the same everywhere:

  B  rows of a batch            D  hidden size (width of a projection)
  T  positions (as queries)     F  width of the feed-forward layer
  S  positions (as keys)        N  attention heads, H = D / N their width
  L  layers                     R  relation heads,  C = D / R their width
  V  vocabulary

A *row* is one line of a batch: fixed length, holding one document or several
packed one after another. `segment_ids` says which: 0 is padding, and the
documents of a row are numbered 1, 2, ... in order. A document may have holes
(padding inside it). MiniLMv2's "example" is one document here, so packing
changes neither what a document sees nor how much it weighs.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

Ids = Int[Array | np.ndarray, "B T"]  # on a device, or still on the host
# Letter in the name of a relation, such as "qk" -> projection, field of `Qkv`.
PROJECTIONS = {"q": "query", "k": "key", "v": "value"}
# Logit of a key that a query does not see. Finite, so that a query that sees no
# key at all, as padding does, gives no NaN.
MASKED = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows of tokens, as an encoder takes them.

  Attributes:
    tokens: ids in the teacher's vocabulary.
    segment_ids: 0 for padding, else the number of the document in its row.
    positions: index of a token in its own document, from 0; padding has 0.
    token_types: 0 or 1 for the two texts of a BERT pair; None: all 0.
  """

  tokens: Ids
  segment_ids: Ids
  positions: Ids
  token_types: Ids | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Qkv:
  """Query, key and value projections of one layer.

  They include the bias, and come before the split into heads, scaling and
  rotation: MiniLMv2 (arXiv 2012.15828, section 3.1) builds its relations of
  them.
  """

  query: Float[Array, "B T Dq"]
  key: Float[Array, "B T Dk"]
  value: Float[Array, "B T Dv"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
  """What students learn of a teacher, by the layer's number from 1.

  Attributes:
    projections: those of some layers.
    states: hidden states that some layers hand on; of the network's last layer
      after the final norm.
  """

  projections: Mapping[int, Qkv]
  states: Mapping[int, Float[Array, "B T D"]] = dataclasses.field(
    default_factory=dict
  )


def make_batch(
  tokens: Int[np.ndarray, "B T"], segment_ids: Int[np.ndarray, "B T"]
) -> Batch:
  """Makes a batch of rows of tokens on the host, with positions.

  Args:
    tokens: ids in the teacher's vocabulary.
    segment_ids: 0 for padding, else the number of the document in its row.
  """
  return Batch(
    tokens=np.asarray(tokens, np.int32),
    segment_ids=np.asarray(segment_ids, np.int32),
    positions=count_positions(segment_ids),
  )


def count_positions(
  segment_ids: Int[np.ndarray, "B T"],
) -> Int[np.ndarray, "B T"]:
  """Numbers the tokens of every document from 0, skipping padding.

    segment_ids  [[0, 1, 1, 1, 2, 2, 0, 2]]
    positions    [[0, 0, 1, 2, 0, 1, 0, 2]]

  Counting tokens rather than columns makes left padding harmless, which is
  also how RoBERTa counts.
  """
  segment_ids = np.asarray(segment_ids)
  real = segment_ids > 0
  count = np.cumsum(real, axis=1)
  highest = np.maximum.accumulate(segment_ids, axis=1)
  before = np.pad(highest, ((0, 0), (1, 0)))[:, :-1]
  starts = real & (segment_ids > before)
  count_at_start = np.maximum.accumulate(np.where(starts, count, 0), axis=1)
  return np.where(real, count - count_at_start, 0).astype(np.int32)


def same_document(
  queries: Int[Array | np.ndarray, "..."], keys: Int[Array | np.ndarray, "..."]
) -> Bool[Array, "..."]:
  """Returns where a query may see a key: real tokens of one document.

  Args:
    queries: segment ids of the queries, with an axis of size 1 for the keys.
    keys: segment ids of the keys, with an axis of size 1 for the queries.
  """
  return queries == without_padding(keys)


def without_padding(
  segment_ids: Int[Array | np.ndarray, "..."],
) -> Int[Array, "..."]:
  """Returns segment ids of keys that no query equals at padding."""
  return jnp.where(segment_ids > 0, segment_ids, -1)


def checksum(batch: Batch) -> UInt[Array, ""]:
  """Returns a number that tells one global batch from another.

  Integer sums are exact in any order, so the number is the same on any number
  of devices and processes, and shows whether two runs read the same.

  Args:
    batch: the rows, whose order does not matter.
  """
  columns = jnp.arange(batch.tokens.shape[1], dtype=jnp.uint32) * 2 + 1
  tokens = batch.tokens.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
  cells = (tokens ^ batch.segment_ids.astype(jnp.uint32)) * columns[None]
  rows = jnp.sum(cells, axis=1)
  rows = (rows ^ (rows >> 15)) * jnp.uint32(0x85EBCA6B)
  return jnp.sum(rows ^ (rows >> 13))
