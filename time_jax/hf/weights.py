"""Tensors by name, a slice at a time, from the files of a model.

The files are mapped into memory, and what was read of a mapping counts as
memory until the mapping is closed. `Weights` closes its mappings every
`_MAPPED` bytes, so that reading a model needs no more than what is made of it.
"""

import dataclasses
import importlib
import math
import pathlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.hf import files

FLOATS = ("float64", "float32", "float16", "bfloat16")
SHORT = {"F64": "float64", "F32": "float32", "F16": "float16"}
SHORT |= {"BF16": "bfloat16", "I64": "int64", "I32": "int32", "I8": "int8"}
SHORT |= {"BOOL": "bool", "I16": "int16", "U8": "uint8"}

_CHUNK = 16 << 20  # bytes copied out of a mapping at once
_MAPPED = 64 << 20  # bytes read before mappings are closed

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Info:
  """What a file's header says of a tensor.

  Attributes:
    shape: of the tensor.
    dtype: as NumPy calls it ("float32"), or as the file does.
    bytes: in the file.
  """

  shape: tuple[int, ...]
  dtype: str
  bytes: int


class Weights:
  """Tensors of a folder by name, one file or many; use it with `with`."""

  def __init__(self, folder: pathlib.Path, allow_pickle: bool = False) -> None:
    """Reads the headers of the folder's files.

    Args:
      folder: of the model.
      allow_pickle: whether pickles may be opened where there is nothing else.

    Raises:
      UserError: there are no files, or they cannot be read.
    """
    self.folder = folder
    self.layout = files.find_weights(folder, allow_pickle)
    self.paths = self.layout.paths
    self._files = [
      _Pickle(path) if path.suffix == ".bin" else _Safetensors(path)
      for path in self.paths
    ]
    self._of = self._find_tensors()
    self._read = 0

  def _find_tensors(self) -> dict[str, tuple["_File", str]]:
    """Name -> the file that counts for it, and its name in there."""
    by_name = dict(zip([p.name for p in self.paths], self._files, strict=True))
    places = self.layout.places
    found: dict[str, tuple[_File, str]] = {}
    for file_name, file in by_name.items():
      for name in file.tensors:
        if places is None or places.get(name) == file_name:
          found[name] = file, name
    self._say_which_counts(by_name)
    # Of tensors that are one and the same, safetensors.torch.save_model writes
    # one, and the names of the others into the header: "left out": "written".
    for file in self._files:
      for name, written in file.tied.items():
        if name not in found and written in found:
          found[name] = found[written]
    return found

  def _say_which_counts(self, by_name: Mapping[str, "_File"]) -> None:
    places = self.layout.places or {}
    for file_name, file in by_name.items():
      twice = sorted(
        name
        for name in file.tensors
        if places.get(name, file_name) != file_name
        and name in by_name[places[name]].tensors
      )
      if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        note(
          f"{self.folder / file_name} holds {twice[0]}{more}, too; what counts "
          f"is in {places[twice[0]]}, as the index says."
        )

  def __iter__(self) -> Iterator[str]:
    return iter(self._of)

  def __contains__(self, name: str) -> bool:
    return name in self._of

  def __enter__(self) -> "Weights":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def info(self, name: str) -> Info:
    """Shape and dtype of a tensor, without reading it."""
    file, stored = self._of[name]
    return file.tensors[stored]

  def stored_as(self, name: str) -> str:
    """The name that the files give a tensor; other names may be tied to it."""
    return self._of[name][1]

  def why_missing(self, name: str) -> str:
    """A remark for messages about a name that is not here, or nothing."""
    place = (self.layout.places or {}).get(name)
    return f" from {place}, where the index has it" if place else ""

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor, without reading it."""
    return self.info(name).shape

  def names_in(self, path: pathlib.Path) -> list[str]:
    """Names of the tensors that are read from one of `paths`."""
    wanted = self._files[self.paths.index(path)]
    return [name for name, (file, _) in self._of.items() if file is wanted]

  def read(self, name: str) -> np.ndarray:
    """A whole tensor, in the file's own dtype."""
    everything = (slice(None),) * len(self.shape(name))
    file, stored = self._of[name]
    array = file.slice(stored, everything)
    self._count(array.nbytes)
    return array

  def read_into(
    self, target: np.ndarray, name: str, index: Index | None = None
  ) -> None:
    """Fills an array with a tensor or with a part of it, cast to its dtype.

    Args:
      target: of the part's shape; may be a transposed view.
      name: of the tensor, which has at least one dimension.
      index: the part; slices without step, one a dimension. None: all of it.
    """
    index = index or (slice(None),) * len(self.shape(name))
    first = index[0].indices(self.shape(name)[0])[0]
    for start, chunk in self.chunks(name, index):
      target[start - first : start - first + len(chunk)] = chunk

  def chunks(
    self, name: str, index: Index | None = None
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Yields a tensor, or a part of it, in order: (first row, some rows).

    Args:
      name: of the tensor; one without dimensions comes whole.
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
    file, stored = self._of[name]
    for start in range(first, last, step):
      stop = min(start + step, last)
      yield start, file.slice(stored, (slice(start, stop), *index[1:]))
      self._count((stop - start) * row_bytes)

  def _count(self, count: int) -> None:
    self._read += count
    if self._read > _MAPPED:
      self.close()

  def close(self) -> None:
    """Lets go of the files; the next read opens them again."""
    self._read = 0
    for file in self._files:
      file.close()


class _Safetensors:
  def __init__(self, path: pathlib.Path) -> None:
    self._path = path
    self._file: Any = None
    names = self._open().keys()
    self.tensors = {name: self._info(name) for name in names}
    self.tied: Mapping[str, str] = self._open().metadata() or {}
    self.close()

  def _info(self, name: str) -> Info:
    part = self._open().get_slice(name)
    shape, short = tuple(part.get_shape()), part.get_dtype()
    digits = "".join(c for c in short.split("_")[0] if c.isdigit())
    size = math.prod(shape) * int(digits or 8) // 8  # BOOL is a byte.
    return Info(shape, SHORT.get(short, short), size)

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
      shape = self.tensors[name].shape
      raise UserError(
        f"{self._path} holds {name} of shape {shape}, which cannot be read: "
        f"{error}."
      ) from error

  def close(self) -> None:
    self._file = None


class _Pickle:
  """What `torch.save` wrote: opened by torch, which allows tensors only."""

  def __init__(self, path: pathlib.Path) -> None:
    self._path = path
    # Before torch 1.6 it was no zip file. Such a file is read whole, once.
    self._mapped = zipfile.is_zipfile(path)
    self._tensors: Any = None
    self.tied: Mapping[str, str] = {}  # Every name has its tensor here.
    self.tensors = {
      name: Info(
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
    if self._tensors is None:
      content = _unpickle(self._path, self._mapped)
      named = content.items() if isinstance(content, dict) else ()
      self._tensors = {
        name: tensor for name, tensor in named if hasattr(tensor, "numel")
      }
    return self._tensors

  def slice(self, name: str, index: Index) -> np.ndarray:
    tensor = self._open()[name][index].contiguous()
    if self.tensors[name].dtype != "bfloat16":
      return tensor.numpy().copy()
    # NumPy knows bfloat16 by an extension of which torch knows nothing.
    bits = tensor.view(importlib.import_module("torch").int16)
    return bits.numpy().copy().view(jnp.dtype("bfloat16"))

  def close(self) -> None:
    if self._mapped:
      self._tensors = None


_File = _Safetensors | _Pickle


def _unpickle(path: pathlib.Path, mapped: bool) -> Any:
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
    reason = reason.strip().splitlines()[0].split(". ")[0]
    raise UserError(
      f"{path} is refused by torch.load(weights_only=True): {reason}; it holds "
      "more than tensors, or is damaged."
    ) from error
  except Exception as error:  # Damage shows as nearly anything.
    reason = str(error).strip().split(". ")[0].split("\n")[0]
    raise UserError(
      f"{path} is damaged or incomplete: {type(error).__name__}: {reason}; "
      "download it again."
    ) from error
