"""A model's weights with fewer rows in the tables over the vocabulary.

Those are the word embeddings and what predicts words: the output layer of a
language model and its bias. All other tensors are copied bit by bit. Files are
written as they are read, a piece of a tensor at a time.
"""

import json
import math
import pathlib
import re
import struct
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.hf import files
from time_jax.hf.weights import SHORT, Weights
from time_jax.models.family import KeyTable

_IN_BLOCK = re.compile(r"(^|\.)(layer|layers|block)\.\d+\.")
_INDEX = "model.safetensors.index.json"


def vocabulary_tables(
  weights: Weights, table: KeyTable, num_rows: int, hidden_size: int
) -> set[str]:
  """Names of the tensors that have a row for each token.

  Args:
    weights: of the model.
    table: of its family.
    num_rows: of the word embeddings.
    hidden_size: of the model; other tensors outside of its blocks have that
      many rows.

  Raises:
    UserError: it cannot be told which they are.
  """
  if num_rows == hidden_size:
    raise UserError(
      f"{weights.folder} has as many tokens as its hidden size, {num_rows}: "
      "which tensors belong to the vocabulary cannot be told; expected more."
    )
  whole = set(table.tensors.values())
  word = {
    name for path, name in table.tensors.items() if "word/embedding" in path
  }
  word |= {table.aliases[name] for name in word if name in table.aliases}

  def bare(name: str) -> str:
    starts = [p for p in table.prefixes if p and name.startswith(p)]
    return name.removeprefix(starts[0]) if starts else name

  found = {
    name
    for name in weights
    if weights.shape(name)[:1] == (num_rows,)
    and not _IN_BLOCK.search(name)
    and bare(name) not in whole - word
  }
  if not word & {bare(name) for name in found}:
    raise UserError(
      f"{weights.folder}: no tensor {' or '.join(sorted(word))} of {num_rows} "
      "rows, as config.json has it; expected the weights of that config."
    )
  return found


def write_weights(
  weights: Weights,
  out: pathlib.Path,
  tables: Collection[str],
  old_ids: Sequence[int],
) -> None:
  """Writes all tensors as safetensors, in as many files as they come from.

  Args:
    weights: of the model.
    out: folder, exists.
    tables: names of the tensors of which only some rows are kept.
    old_ids: these rows, in ascending order.
  """
  kept = np.asarray(old_ids)
  places: dict[str, str] = {}
  total = 0
  for path in weights.paths:
    # pytorch_model-00001-of-00002.bin -> model-00001-of-00002.safetensors
    file = path.with_suffix(".safetensors").name.removeprefix("pytorch_")
    names = weights.names_in(path)
    shapes = {
      name: (len(kept), *weights.shape(name)[1:])
      if name in tables
      else weights.shape(name)
      for name in names
    }
    parts = _write(out / file, weights, shapes, tables, kept)
    places |= dict.fromkeys(names, file)
    total += parts
  if weights.layout.places is not None:
    index = {"metadata": {"total_size": total}, "weight_map": places}
    text = atomic_file.as_json(index, indent=2, sort_keys=True) + "\n"
    (out / _INDEX).write_text(text, encoding="utf-8")


def _write(
  path: pathlib.Path,
  weights: Weights,
  shapes: dict[str, tuple[int, ...]],
  tables: Collection[str],
  kept: np.ndarray,
) -> int:
  """Writes one file; returns the bytes of its tensors."""

  def size_of_one(name: str) -> int:
    info = weights.info(name)
    return info.bytes // max(math.prod(info.shape), 1)

  header: dict[str, object] = {"__metadata__": {"format": "pt"}}
  # Wide numbers first, so that every tensor starts at a multiple of its own.
  order = sorted(shapes, key=lambda name: (-size_of_one(name), name))
  end = 0
  for name in order:
    start, end = end, end + math.prod(shapes[name]) * size_of_one(name)
    dtype = weights.info(name).dtype
    header[name] = {
      "dtype": next((s for s, long in SHORT.items() if long == dtype), dtype),
      "shape": list(shapes[name]),
      "data_offsets": [start, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  with path.open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
      for rows in _rows(weights, name, kept if name in tables else None):
        file.write(np.ascontiguousarray(rows).tobytes())
  return end


def _rows(
  weights: Weights, name: str, kept: np.ndarray | None
) -> Iterator[np.ndarray]:
  for start, chunk in weights.chunks(name):
    if kept is None:
      yield chunk
      continue
    first, last = np.searchsorted(kept, [start, start + len(chunk)])
    yield chunk[kept[first:last] - start]


def count_numbers(folder: pathlib.Path) -> tuple[int, int]:
  """Numbers in a folder's weights, and bytes of their files."""
  with Weights(folder, allow_pickle=True) as weights:
    numbers = sum(math.prod(weights.shape(name)) for name in weights)
    paths = files.weight_files(folder, allow_pickle=True)
  return numbers, sum(path.stat().st_size for path in paths)
