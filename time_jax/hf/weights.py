"""Tensors by name, a slice at a time, from the files of a model.

The files are mapped into memory, and what was read of a mapping counts as
memory until the mapping is closed. `Weights` closes its mappings every
`_MAPPED` bytes, so that reading a model needs no more memory than the arrays
that are made of it.
"""

import dataclasses
import importlib
import math
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from time_jax.core.errors import UserError, first_line
from time_jax.core.notes import note
from time_jax.core.storage.paths import Path
from time_jax.hf.weight_files import find_weights

FLOATS = ("float64", "float32", "float16", "bfloat16")
# What safetensors calls a dtype -> what NumPy calls it.
_DTYPES = {
  **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
  **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
  **{"U8": "uint8", "BOOL": "bool"},
}
_CHUNK = 16 << 20  # bytes copied out of a mapping at once
_MAPPED = 64 << 20  # bytes read before mappings are closed

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class TensorInfo:
  """What a file's header says of a tensor.

  Attributes:
    shape: the tensor's shape.
    dtype: NumPy's name of its dtype ("float32"), or the file's own name of a
      dtype that NumPy does not have.
    bytes: its size in the file.
  """

  shape: tuple[int, ...]
  dtype: str
  bytes: int


class Weights:
  """The tensors of a folder by name, in one file or many.

  Use it in a `with` statement, which closes the files.

  Attributes:
    folder: the model's folder.
    files: which of its files are read, see `weight_files.WeightFiles`.
  """

  def __init__(self, folder: Path, allow_pickle: bool = False) -> None:
    """Reads the headers of the folder's files.

    Args:
      folder: the model's folder.
      allow_pickle: whether pickles may be opened where there is no
        safetensors.

    Raises:
      UserError: there are no files, or they cannot be read.
    """
    self.folder = folder
    self.files = find_weights(folder, allow_pickle)
    self._readers: dict[str, _Reader] = {
      path.name: _Pickle(path) if path.suffix == ".bin" else _Safetensors(path)
      for path in self.files.paths
    }
    self._tensors = self._find_tensors()
    self._bytes_read = 0

  def _find_tensors(self) -> dict[str, tuple["_Reader", str]]:
    """Returns name -> the reader of the file in which it counts, name there."""
    tensors: dict[str, tuple[_Reader, str]] = {}
    for file_name, reader in self._readers.items():
      elsewhere = []
      for name in reader.tensors:
        counts_in = (self.files.index or {}).get(name)
        if self.files.index is None or counts_in == file_name:
          tensors[name] = reader, name
        elif counts_in and name in self._readers[counts_in].tensors:
          elsewhere.append(name)
      if elsewhere and self.files.index:
        first, *others = sorted(elsewhere)
        more = f" and {len(others)} more" if others else ""
        note(
          f"{self.folder / file_name} holds {first}{more}, too; what counts "
          f"is in {self.files.index[first]}, as the index says."
        )
    # Of tensors that share memory, safetensors.torch.save_model writes one, and
    # the names of the others into the header: {left out: written}.
    for reader in self._readers.values():
      for name, written in reader.tied.items():
        if name not in tensors and written in tensors:
          tensors[name] = tensors[written]
    return tensors

  def __iter__(self) -> Iterator[str]:
    return iter(self._tensors)

  def __contains__(self, name: str) -> bool:
    return name in self._tensors

  def __enter__(self) -> "Weights":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def info(self, name: str) -> TensorInfo:
    """Returns shape, dtype and size of a tensor, without reading it."""
    reader, stored = self._tensors[name]
    return reader.tensors[stored]

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor, without reading it."""
    return self.info(name).shape

  def stored_as(self, name: str) -> str:
    """Returns a tensor's name in its file; other names may be tied to it."""
    return self._tensors[name][1]

  def expected_file(self, name: str) -> str:
    """Returns the file in which the index has a name, or "" without one."""
    return (self.files.index or {}).get(name, "")

  def names_in(self, path: Path) -> list[str]:
    """Returns the names of the tensors that are read from one file."""
    reader = self._readers[path.name]
    return [name for name, (its, _) in self._tensors.items() if its is reader]

  def read(self, name: str) -> np.ndarray:
    """Returns a whole tensor, in the file's own dtype."""
    reader, stored = self._tensors[name]
    array = reader.slice(stored, (slice(None),) * len(self.shape(name)))
    self._count(array.nbytes)
    return array

  def read_into(
    self, target: np.ndarray, name: str, index: Index | None = None
  ) -> None:
    """Fills an array with a tensor or with a part of it, cast to its dtype.

    Args:
      target: array of the part's shape; may be a transposed view.
      name: name of a tensor that has at least one dimension.
      index: the part: a slice without step for each dimension. None: all.
    """
    index = index or (slice(None),) * len(self.shape(name))
    first = index[0].indices(self.shape(name)[0])[0]
    for start, chunk in self.chunks(name, index):
      target[start - first : start - first + len(chunk)] = chunk

  def chunks(
    self, name: str, index: Index | None = None
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Yields a tensor, or a part of it, as (first row, some rows) in order.

    Args:
      name: name of the tensor; one without dimensions comes whole.
      index: as for `read_into`.
    """
    info = self.info(name)
    if not info.shape:
      yield 0, self.read(name)
      return
    index = index or (slice(None),) * len(info.shape)
    first, last, _ = index[0].indices(info.shape[0])
    row_bytes = info.bytes // max(info.shape[0], 1)
    step = max(_CHUNK // max(row_bytes, 1), 1)
    reader, stored = self._tensors[name]
    for start in range(first, last, step):
      stop = min(start + step, last)
      yield start, reader.slice(stored, (slice(start, stop), *index[1:]))
      self._count((stop - start) * row_bytes)

  def _count(self, num_bytes: int) -> None:
    self._bytes_read += num_bytes
    if self._bytes_read > _MAPPED:
      self.close()

  def close(self) -> None:
    """Closes the files; the next read opens them again."""
    self._bytes_read = 0
    for reader in self._readers.values():
      reader.close()


class _Safetensors:
  """A file in safetensors' format."""

  def __init__(self, path: Path) -> None:
    self._path = path
    self._file: Any = None
    names = self._open().keys()
    self.tensors = {name: self._info(name) for name in names}
    self.tied: Mapping[str, str] = self._open().metadata() or {}
    self.close()

  def _info(self, name: str) -> TensorInfo:
    part = self._open().get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()
    bits = int((re.findall(r"\d+", dtype) or ["8"])[0])  # BOOL is a byte.
    return TensorInfo(
      shape, _DTYPES.get(dtype, dtype), math.prod(shape) * bits // 8
    )

  def _open(self) -> Any:
    try:
      if self._file is None:
        self._file = safetensors.safe_open(self._path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
      raise UserError(
        f"{self._path} is damaged or incomplete: {error}; download it again."
      ) from error
    return self._file

  def slice(self, name: str, index: Index) -> np.ndarray:
    try:
      return self._open().get_slice(name)[index]
    except safetensors.SafetensorError as error:
      raise UserError(
        f"{self._path} holds {name} of shape {self.tensors[name].shape}, which "
        f"cannot be read: {error}."
      ) from error

  def close(self) -> None:
    self._file = None


class _Pickle:
  """A file of `torch.save`, which torch opens if it holds only tensors."""

  def __init__(self, path: Path) -> None:
    self._path = path
    # Before torch 1.6 it was no zip file. Such a file is read whole, once.
    self._mapped = zipfile.is_zipfile(path)
    self._content: Any = None
    self.tied: Mapping[str, str] = {}  # Every name has its tensor here.
    self.tensors = {
      name: TensorInfo(
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        tensor.numel() * tensor.element_size(),
      )
      for name, tensor in self._open().items()
    }
    if not self.tensors:
      raise UserError(f"{path} holds no tensors by name.")
    self.close()

  def _open(self) -> Any:
    if self._content is None:
      content = _unpickle(self._path, self._mapped)
      named = content.items() if isinstance(content, dict) else ()
      self._content = {
        name: tensor for name, tensor in named if hasattr(tensor, "numel")
      }
    return self._content

  def slice(self, name: str, index: Index) -> np.ndarray:
    tensor = self._open()[name][index].contiguous()
    if self.tensors[name].dtype != "bfloat16":
      return tensor.numpy().copy()
    # NumPy knows bfloat16 by an extension of which torch knows nothing.
    bits = tensor.view(importlib.import_module("torch").int16)
    return bits.numpy().copy().view(jnp.dtype("bfloat16"))

  def close(self) -> None:
    if self._mapped:
      self._content = None


_Reader = _Safetensors | _Pickle


def _unpickle(path: Path, mapped: bool) -> Any:
  try:
    torch = importlib.import_module("torch")
  except ImportError as error:
    raise UserError(
      f"{path} is a pickle, which only torch reads, and torch is not "
      "installed: pip install torch, or convert the file elsewhere."
    ) from error
  try:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
  except pickle.UnpicklingError as error:
    reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    raise UserError(
      f"{path} is refused by torch.load(weights_only=True): "
      f"{reason.strip().splitlines()[0].split('. ')[0]}; it holds more than "
      "tensors, or is damaged."
    ) from error
  except Exception as error:  # Damage shows as nearly anything.
    raise UserError(
      f"{path} is damaged or incomplete: {type(error).__name__}: "
      f"{first_line(error).split('. ')[0].rstrip('.')}; download it again."
    ) from error
