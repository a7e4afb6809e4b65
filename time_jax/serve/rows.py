"""Computes rows of tokens with a graph, in batches of similar lengths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from time_jax.core.errors import UserError, first_line
from time_jax.core.storage.paths import Path
from time_jax.hf import onnx_session
from time_jax.hf.onnx_names import INPUTS, OWNERS
from time_jax.hf.onnx_session import Session

Beat = Callable[[], None]  # called before every batch; may raise
_TOGETHER = 4096  # tokens of a batch, padding included


class Row(NamedTuple):
  """A row that the graph takes.

  Attributes:
    tokens: ids, special ones included.
    types: BERT's types of the tokens; None: all are 0.
    owners: the word of each token, from 1; None where no words are asked for.
  """

  tokens: Int[np.ndarray, " t"]
  types: Int[np.ndarray, " t"] | None = None
  owners: Int[np.ndarray, " t"] | None = None


class Batch(NamedTuple):
  """Rows that were computed together.

  Attributes:
    numbers: the numbers of these rows.
    outputs: name -> array (rows, ...), with padding.
  """

  numbers: list[int]
  outputs: Mapping[str, np.ndarray]


def open_graph(path: Path) -> Session:
  """Opens a graph in onnxruntime.

  Raises:
    UserError: onnxruntime is not installed, or the file is damaged.
  """
  try:
    return onnx_session.open_session(path)
  except UserError:
    raise
  except Exception as error:  # The library's errors share no base class.
    raise UserError(
      f"{path} cannot be opened: {first_line(error)} Expected a graph as "
      "`time-jax export --onnx` wrote it: copy the folder once more."
    ) from error


class RowGraph:
  """A graph of rows, in onnxruntime; any thread may use it."""

  def __init__(self, path: Path) -> None:
    """Opens a file; raises UserError where that fails, see `open_graph`."""
    self._path, self._session = path, open_graph(path)

  @property
  def has_types(self) -> bool:
    """Whether it takes types of tokens."""
    return INPUTS[-1] in self._session.inputs

  def run(
    self, rows: Sequence[Row], outputs: Sequence[str], beat: Beat
  ) -> Iterator[Batch]:
    """Yields batches, the longest rows first.

    Args:
      rows: the rows, of one token or more.
      outputs: names of the outputs.
      beat: see `Beat`.
    """
    for numbers in _batches([len(row.tokens) for row in rows]):
      beat()
      feeds = _feeds([rows[i] for i in numbers])
      given = {k: v for k, v in feeds.items() if k in self._session.inputs}
      arrays = self._session.run(outputs, given)
      if not all(np.isfinite(array).all() for array in arrays):
        raise UserError(
          f"{self._path} computes NaN or infinity, so that its weights must be "
          "damaged; expected numbers: copy the folder once more."
        )
      yield Batch(numbers, dict(zip(outputs, arrays, strict=True)))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
  """Yields the numbers of the rows of each batch, the longest first."""
  order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
  while order:
    count = max(_TOGETHER // lengths[order[0]], 1)
    yield order[:count]
    order = order[count:]


def _feeds(rows: Sequence[Row]) -> dict[str, np.ndarray]:
  """Returns the inputs of a batch, padded with 0, which the mask hides."""
  shape = len(rows), max(len(row.tokens) for row in rows)
  names = [*INPUTS, OWNERS]
  feeds = {name: np.zeros(shape, np.int64) for name in names}
  for i, (tokens, types, owners) in enumerate(rows):
    values = tokens, 1, types, owners
    for name, value in zip(names, values, strict=True):
      if value is not None:
        feeds[name][i, : len(tokens)] = value
  return feeds
