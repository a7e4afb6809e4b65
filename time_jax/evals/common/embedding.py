"""Vectors of texts: the mean of their tokens' last hidden states."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import Batch
from time_jax.data.tokenizing import load_backend
from time_jax.evals.common import batches
from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.models.family import Params


def embed(
  student: OpenedEncoder, texts: Sequence[str], *, batch_size: int = 32
) -> Float[np.ndarray, "N D"]:
  """Returns a vector for every text: the mean of its tokens' hidden states.

  Args:
    student: encoder with its tokenizer.
    texts: what lies beyond the most tokens that the student takes is left out.
    batch_size: texts that are computed together.
  """
  tokenizer = load_backend(student.tokenizer)
  tokenizer.enable_truncation(student.longest)
  lines = tokenizer.encode_batch(list(texts))
  ids = [np.array(line.ids, np.int32) for line in lines]
  vectors = np.zeros((len(ids), student.config.hidden_size), np.float32)
  order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
  for start in range(0, len(order), batch_size):
    chosen = order[start : start + batch_size]
    # Few lengths and one number of rows: each new shape is compiled.
    length = 16 * -(-max(len(ids[i]) for i in chosen) // 16)
    pad_id = student.tokenizer.pad_id
    shape = batches.Shape(batch_size, length, 0)
    batch = batches.fill_rows(ids, [[i] for i in chosen], shape, pad_id)
    means = _mean_state(student.encoder, student.params, batch)
    vectors[chosen] = np.asarray(means)[: len(chosen)]
  return vectors


@functools.partial(jax.jit, static_argnums=0)
def _mean_state(
  encoder: Any, params: Params, batch: Batch
) -> Float[Array, "B D"]:
  states = encoder.apply({"params": params}, batch, method="hidden_states")[-1]
  real = jnp.asarray(batch.segment_ids > 0, states.dtype)[..., None]
  return jnp.sum(states * real, 1) / jnp.maximum(jnp.sum(real, 1), 1)
