"""A teacher's projections on disk, one record a row of text.

A record is there if and only if its checksum is right. So there is no index and
no lock: processes and runs may read and write at the same time, and one that is
killed leaves at most a torn record, which does not count. Whoever misses a
record computes its row and writes it again.

  FOLDER/KEY/identity.json   what the projections are of; KEY is its hash
  FOLDER/KEY/rows.bin        records of one size, that of row i at i * size:
                             key, query and value [T, D], mark, checksum

The file is sparse: records that were not written take no room on most disks.
"""

import errno
import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from time_jax.core.errors import (
  DAMAGED_JSON,
  UserError,
  explain_refusal,
  explain_unwritable,
)
from time_jax.core.notes import say
from time_jax.core.storage.atomic_file import as_json, read_json
from time_jax.core.storage.paths import Path

Arrays = dict[str, NDArray[Any]]
"""query, key and value of some rows, each [rows, T, D]."""

_VERSION = 1  # of the form of a record
_MARK = b"row1"  # Not zero, as a part of a file is that was never written.
_TAIL = struct.Struct("<4sI")  # mark and checksum
_READERS = 4  # threads; disks and checksums are faster with some


def record_size(shapes: Mapping[str, Sequence[int]], dtype: np.dtype) -> int:
  """Returns the bytes that a row takes on disk.

  Args:
    shapes: shape [T, D] of a row's "query", "key" and "value".
    dtype: of the numbers on disk.
  """
  numbers = sum(math.prod(shape) for shape in shapes.values())
  return numbers * dtype.itemsize + _TAIL.size


class ProjectionStore:
  """Projections of the rows of one text by one layer of one teacher.

  Methods may be called by several threads at once, but for `close`.
  """

  def __init__(
    self,
    folder: Path,
    identity: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    dtype: np.dtype,
    kept: int,
  ) -> None:
    """Opens the store of an identity, or makes it.

    Args:
      folder: holds the stores of any identities; it may be missing.
      identity: all that the projections depend on, as JSON values.
      shapes: shape [T, D] of a row's "query", "key" and "value".
      dtype: of the numbers on disk, and of the arrays here.
      kept: rows 0 ... kept - 1 have a place on disk.

    Raises:
      UserError: the file system refuses, or holds something else there.
    """
    form = {"version": _VERSION, "dtype": dtype.name, "shapes": shapes}
    text = as_json({**form, **identity}, sort_keys=True)
    self._key = hashlib.sha256(text.encode()).hexdigest()[:16]
    self._shapes = dict(sorted(shapes.items()))
    self._dtype, self._kept = dtype, kept
    self._size = record_size(shapes, dtype)
    self._path = folder / self._key / "rows.bin"
    self._refusals: set[str] = set()  # what the disk has refused
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      _check_identity(self._path.with_name("identity.json"), text)
      self._file, writable = _open(self._path)
    except OSError as error:
      raise UserError(
        f"teacher.cache: {self._path.parent} cannot be written to: "
        f"{explain_unwritable(error)}."
      ) from error
    if not writable:  # Whoever made it has the same numbers in mind.
      self._refusals.add("written")
    self._readers = ThreadPoolExecutor(_READERS, "projections")

  def read(self, indices: Sequence[int]) -> tuple[Arrays, NDArray[np.bool_]]:
    """Reads the records of rows.

    Args:
      indices: the rows, in any order.

    Returns:
      The arrays, and which of the rows are there. The others' numbers mean
      nothing.
    """
    arrays = {
      name: np.zeros((len(indices), *shape), self._dtype)
      for name, shape in self._shapes.items()
    }
    hits = self._readers.map(self._read, indices, _records(arrays))
    return arrays, np.fromiter(hits, np.bool_, len(indices))

  def _read(self, index: int, record: list[memoryview]) -> bool:
    if index >= self._kept:
      return False
    tail = bytearray(_TAIL.size)
    try:
      os.preadv(self._file, [*record, tail], index * self._size)
    except OSError as error:
      self._refused("read", error)
    return tail == self._tail(index, record)

  def write(self, indices: Sequence[int], arrays: Mapping[str, Any]) -> None:
    """Writes records of rows, unless the disk has refused one before.

    What the disk refuses is said in a line, once: nothing depends on whether a
    row is there.

    Args:
      indices: the rows; those that have no place are left out.
      arrays: their "query", "key" and "value", as `read` returns them.
    """
    arrays = {
      name: np.ascontiguousarray(arrays[name], self._dtype)
      for name in self._shapes
    }
    for index, record in zip(indices, _records(arrays), strict=True):
      if index < self._kept and "written" not in self._refusals:
        content = [*record, self._tail(index, record)]
        try:
          _write_all(self._file, content, index * self._size)
        except OSError as error:
          self._refused("written", error)

  def _tail(self, index: int, record: Sequence[memoryview]) -> bytes:
    """Returns what ends the record of a row, in its place and in no other."""
    checksum = zlib.crc32(f"{self._key} {index}".encode())
    for part in record:
      checksum = zlib.crc32(part, checksum)
    return _TAIL.pack(_MARK, checksum)

  def _refused(self, action: str, error: OSError) -> None:
    if action not in self._refusals:
      self._refusals.add(action)
      say(
        f"teacher.cache: {self._path} cannot be {action}: "
        f"{explain_refusal(error)}. The run goes on and computes what is not "
        "there."
      )

  def close(self) -> None:
    """Closes the file; no method may be called after that."""
    self._readers.shutdown()
    os.close(self._file)


def _open(path: Path) -> tuple[int, bool]:
  """Opens a file to read and, where that is allowed, to write."""
  try:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), True
  except OSError as error:
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
      raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def _check_identity(path: Path, identity: str) -> None:
  """Writes down what a store is of, or compares it with what was written.

  Args:
    path: the file.
    identity: what it is to hold, in JSON.

  Raises:
    UserError: it holds something else.
    OSError: the file system refuses.
  """
  wanted = json.loads(identity)
  try:
    found = read_json(path)
  except (FileNotFoundError, *DAMAGED_JSON):
    # Processes that begin together each write a file of their own.
    fresh = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    fresh.write_text(as_json(wanted, indent=2) + "\n")
    fresh.replace(path)
    return
  if found != wanted:
    raise UserError(
      f"teacher.cache: {path} does not say what its folder is of; expected "
      f"{identity}. Delete {path.parent}, or use another teacher.cache."
    )


def _records(arrays: Arrays) -> list[list[memoryview]]:
  """Returns the bytes of each row's arrays, in the order of a record."""
  count = len(next(iter(arrays.values())))
  flat = [
    x.reshape(count, math.prod(x.shape[1:])).view(np.uint8)
    for x in arrays.values()
  ]
  return [[memoryview(rows[i]) for rows in flat] for i in range(count)]


def _write_all(file: int, parts: Sequence[Any], offset: int) -> None:
  """Writes parts one after the other; the system may do so in pieces."""
  done = os.pwritev(file, parts, offset)
  if done < sum(map(len, parts)):
    rest = memoryview(b"".join(parts))
    while done < len(rest):
      done += os.pwrite(file, rest[done:], offset + done)
