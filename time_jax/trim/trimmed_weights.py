"""A model's weights with fewer rows in the tables over the vocabulary.

Those are the word embeddings and what predicts tokens: the output layer of a
language model and its bias. All other tensors are copied bit by bit.
"""

import math
import re
from collections.abc import Collection, Sequence

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path
from time_jax.hf.save import write_safetensors
from time_jax.hf.weights import Weights
from time_jax.models.family import KeyTable

_IN_BLOCK = re.compile(r"(^|\.)(layer|layers|block)\.\d+\.")
_INDEX = "model.safetensors.index.json"


def vocabulary_tables(
  weights: Weights, table: KeyTable, num_rows: int, hidden_size: int
) -> set[str]:
  """Returns the names of the tensors that have a row for each token.

  Args:
    weights: the model's tensors.
    table: key table of the model's family.
    num_rows: rows of the word embeddings.
    hidden_size: hidden size of the model; other tensors outside of its blocks
      have that many rows.

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

  tables = {
    name
    for name in weights
    if weights.shape(name)[:1] == (num_rows,)
    and not _IN_BLOCK.search(name)
    and bare(name) not in whole - word
  }
  if not word & {bare(name) for name in tables}:
    raise UserError(
      f"{weights.folder}: no tensor {' or '.join(sorted(word))} of {num_rows} "
      "rows, as config.json has it; expected the weights of that config."
    )
  return tables


def write_weights(
  weights: Weights, out: Path, tables: Collection[str], old_ids: Sequence[int]
) -> None:
  """Writes all tensors as safetensors, in as many files as they come from.

  Args:
    weights: the model's tensors.
    out: an existing folder.
    tables: names of the tensors of which only some rows are kept.
    old_ids: these rows, in ascending order.
  """
  rows = list(old_ids)
  file_of: dict[str, str] = {}
  total_size = 0
  for path in weights.files.paths:
    # pytorch_model-00001-of-00002.bin -> model-00001-of-00002.safetensors
    file = path.with_suffix(".safetensors").name.removeprefix("pytorch_")
    tensors = {
      name: weights.read(name)[rows if name in tables else ...]
      for name in weights.names_in(path)
    }
    write_safetensors(out / file, tensors)
    file_of |= dict.fromkeys(tensors, file)
    total_size += sum(tensor.nbytes for tensor in tensors.values())
  if weights.files.index is not None:
    index = {"metadata": {"total_size": total_size}, "weight_map": file_of}
    atomic_file.write_json(out / _INDEX, index, sort_keys=True)


def count_numbers(folder: Path) -> tuple[int, int]:
  """Returns how many numbers a folder's weights have, and bytes of files."""
  with Weights(folder, allow_pickle=True) as weights:
    numbers = sum(math.prod(weights.shape(name)) for name in weights)
    return numbers, sum(path.stat().st_size for path in weights.files.paths)
