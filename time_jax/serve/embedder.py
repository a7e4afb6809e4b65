"""Vectors of texts: a student that was not fine-tuned."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from time_jax.data.tokenizing import WindowEncoder, load_backend
from time_jax.evals.common.word_tokens import WordTokenizer
from time_jax.hf.onnx_names import STATES
from time_jax.serve.folder import Folder
from time_jax.serve.items import read_all
from time_jax.serve.items import text as as_text
from time_jax.serve.rows import Beat, Row, RowGraph


class Embedder:
  """Turns texts into vectors, as sentence-transformers does with the export.

  An item is a text, of which the end is cut off where it is too long. What is
  found for it is the mean of the last hidden states of all its tokens: a list
  of numbers.
  """

  example = "It works."

  def __init__(self, folder: Folder) -> None:
    """Opens the model of a folder; raises UserError where it cannot."""
    self._graph = RowGraph(folder.file())
    self._encoder = WindowEncoder(folder.tokenizer, folder.longest)
    self._words = WordTokenizer(folder.tokenizer, folder.longest)
    special = load_backend(folder.tokenizer).encode("").ids
    self._nothing = np.array(special, np.int32)

  @functools.cached_property
  def width(self) -> int:
    """The numbers of a vector."""
    return len(self([self.example])[0])

  def __call__(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[list[float]]:
    """See `model.Model`."""
    texts = read_all(as_text, items)
    rows = [
      Row(windows[0] if windows else self._nothing)
      for windows in self._encoder.first_windows(texts)
    ]
    found: list[list[float]] = [[] for _ in rows]
    for numbers, outputs in self._graph.run(rows, STATES, beat):
      for i, states in zip(numbers, outputs[STATES[0]], strict=True):
        found[i] = states[: len(rows[i].tokens)].mean(axis=0).tolist()
    return found

  def of_words(
    self, sentences: Sequence[Sequence[str]], beat: Beat = lambda: None
  ) -> list[Float[np.ndarray, "W D"]]:
    """Returns the mean of the last hidden states of each word's tokens.

    Args:
      sentences: the words of each, at least one.
      beat: see `model.Model`.
    """
    chunks = self._words.chunks(sentences)
    by_chunk: dict[int, np.ndarray] = {}
    rows = [Row(chunk.tokens) for chunk in chunks]
    for numbers, outputs in self._graph.run(rows, STATES, beat):
      for i, states in zip(numbers, outputs[STATES[0]], strict=True):
        inside = np.flatnonzero(chunks[i].word_of_token)
        starts = np.searchsorted(inside, chunks[i].first_tokens)
        sums = np.add.reduceat(states[inside], starts)
        counts = np.diff(starts, append=len(inside))
        by_chunk[i] = sums / counts[:, None]
    parts: list[list[np.ndarray]] = [[] for _ in sentences]
    for i, chunk in enumerate(chunks):
      parts[chunk.sentence].append(by_chunk[i])
    return [*map(np.concatenate, parts)]
