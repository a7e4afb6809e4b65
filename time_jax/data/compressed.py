"""The bytes and lines of files that may be plain, `.gz` or `.zst`.

All that comes before a damaged place is yielded before the error is raised, and
a small file cannot fill the memory.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import zstandard

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path

ENDINGS = (".gz", ".zst")
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
# A small compressed file must not fill the memory. Neither must a line of JSON,
# which takes up to 24 times its length once it is parsed.
LONGEST_LINE = 16 << 20
_LARGEST_UNPACKED = 4 << 30  # bytes
_CHUNK = 1 << 20  # bytes
# 8 KiB of zstd unpack to 256 MiB at most: 4 bytes can stand for 128 KiB.
_ZST_CHUNK = 8 << 10


def chunks(path: Path) -> Iterator[bytes]:
  """Yields the unpacked content of a file.

  Args:
    path: the file, whose name says how it is compressed.

  Raises:
    Exception: one of `DAMAGED`, where the file is damaged or cut off.
  """
  suffix = path.suffix.lower()
  with path.open("rb") as file:
    if suffix == ".zst":
      yield from _zst_chunks(file)
      return
    plain = gzip.GzipFile(fileobj=file) if suffix == ".gz" else file
    # Unlike read, read1 hands out what comes before the damage in a file.
    while chunk := plain.read1(_CHUNK):
      yield chunk


def unpacked(path: Path) -> bytes:
  """Returns the unpacked content of a file.

  Raises:
    UserError: it has more than 4 GiB.
  """
  content = bytearray()
  for chunk in chunks(path):
    content += chunk
    if len(content) > _LARGEST_UNPACKED:
      raise UserError(
        f"{str(path)!r} unpacks to more than {_LARGEST_UNPACKED:,} bytes; "
        "unpack it on disk: parquet is compressed inside, and is read in pieces"
      )
  return bytes(content)


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
  r"""Yields lines without their ends; None for a line of over 16 MiB.

    b"one\ntw", b"o\nthree"  ->  b"one", b"two", b"three"

  Args:
    chunks: the content, cut anywhere.
  """
  line = bytearray()
  size = 0  # Also of a line that is too long to be kept.
  for chunk in chunks:
    for number, part in enumerate(chunk.split(b"\n")):
      if number:
        yield bytes(line) if size <= LONGEST_LINE else None
        line.clear()
        size = 0
      size += len(part)
      if size <= LONGEST_LINE:
        line += part
  if size > LONGEST_LINE:
    yield None
  elif size:
    yield bytes(line)


def _zst_chunks(file: BinaryIO) -> Iterator[bytes]:
  # The library's own stream reader ends a truncated file without an error.
  decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
  frame = None
  while chunk := file.read(_ZST_CHUNK):
    while chunk:
      frame = frame or decompressor.decompressobj()
      data = frame.decompress(chunk)
      for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]
      chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
  if frame is not None:
    raise EOFError
