"""Rows of words, by which ONNX files of a network are compared with JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from time_jax.core.errors import RunError
from time_jax.core.storage.paths import Path
from time_jax.evals.common.batches import Shape
from time_jax.evals.common.word_network import (
  WordBatch,
  WordExamples,
  WordNetwork,
)
from time_jax.hf import onnx_session
from time_jax.hf.onnx_names import INPUTS, OWNERS

_LEAST = 0.5  # share of labels that stay the same in 8 bits
# Share of labels that rounding may change, where the scores of two are near.
_DIFFERENT = 0.05


def fill(network: WordNetwork, texts: Sequence[Sequence[str]]) -> WordBatch:
  """Returns texts, given as words, each in a row of its own."""
  chunks = network.tokenizer.chunks(texts)
  examples = WordExamples(chunks, network.opened.tokenizer.pad_id)
  size = int(examples.sizes.max()), int(examples.words.max())
  rows = [[i] for i in range(len(chunks))]
  return examples.fill(rows, Shape(len(rows), *size))


def inputs(batch: WordBatch) -> dict[str, np.ndarray]:
  """Returns what a graph takes of such a batch."""
  own = batch.batch
  names = [*INPUTS[:2], OWNERS]
  arrays = own.tokens, np.asarray(own.segment_ids) > 0, batch.word_of_token
  return dict(zip(names, map(np.asarray, arrays), strict=True))


def run(
  path: Path, outputs: Sequence[str], given: Mapping[str, Any]
) -> list[np.ndarray]:
  """Computes outputs of a file.

  Args:
    path: the ONNX file.
    outputs: their names.
    given: its inputs; whole numbers and booleans become int64.
  """
  feeds = {
    name: array if array.dtype == np.float32 else array.astype(np.int64)
    for name, array in given.items()
  }
  return onnx_session.open_session(path).run(outputs, feeds)


def check(equal: int, near: int, total: int) -> None:
  """Raises RunError if too few labels are those of JAX.

  Args:
    equal: labels that are, in float32.
    near: labels that are, in 8 bits.
    total: all labels.
  """
  if equal < (1 - _DIFFERENT) * total:
    raise RunError(
      f"onnxruntime gives {total - equal} of {total} labels otherwise than "
      f"JAX; expected at most {_DIFFERENT:.0%}."
    )
  if near < _LEAST * total:
    raise RunError(
      f"int8: {near} of {total} labels are those of JAX; expected at least "
      f"{_LEAST:.0%}."
    )
