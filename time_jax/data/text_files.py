"""Local files to documents: plain text, JSON lines and parquet.

Each may be plain, `.gz` or `.zst`. Damage costs what it damages, no more.
"""

import contextlib
import glob
import gzip
import io
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any, BinaryIO

import zstandard

from time_jax.core import errors
from time_jax.core.storage import text_encoding
from time_jax.core.storage.text_encoding import HEAD
from time_jax.data.records import BadRecordError, Tally, check_field, text_of

_CHUNK_BYTES = 1 << 20
# A .txt file without any blank line must not have to fit into memory.
_LONGEST_PARAGRAPH = 1 << 20
# Nor may little compressed text fill the memory, nor a line of JSON, which can
# become 24 times as much: such a line is skipped.
_LONGEST_LINE = 16 << 20
_FIRST = 100  # lines that are looked at before reading
_LARGEST_PACKED = 4 << 30  # bytes of a parquet file inside .gz or .zst
# Its 8 KiB can become 256 MiB of text, no more: 128 KiB from 4 bytes.
_ZST_BYTES = 8 << 10
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


def find_files(pattern: str) -> list[pathlib.Path]:
  """Returns the files of a path or glob, sorted; each can be read."""
  pattern = os.path.expanduser(pattern)
  # A path that exists is taken literally, even with [ or * in its name.
  exact = os.path.exists(pattern)
  found = [pattern] if exact else glob.glob(pattern, recursive=True)
  paths = [pathlib.Path(name) for name in sorted(found)]
  if not paths:
    raise errors.UserError(
      f"no file at {pattern!r}; expected a path or a glob such as "
      "'text/*.jsonl.gz'; check the spelling and the working directory"
    )
  for path in paths:
    if path.is_dir() or _reader(path) is None:
      raise errors.UserError(
        f"{str(path)!r} is a folder or of an unknown kind; expected .txt, "
        ".jsonl, .json, .ndjson or .parquet, each plain, .gz or .zst; name "
        "files, such as 'text/*.jsonl.gz'"
      )
  return paths


def _reader(path: pathlib.Path) -> Any:
  name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
  if name.endswith((".jsonl", ".json", ".ndjson")):
    return _read_json
  suffix = pathlib.PurePath(name).suffix
  return {".txt": _read_paragraphs, ".parquet": _read_parquet}.get(suffix)


def file_size(path: pathlib.Path) -> int:
  """Returns the bytes of a file."""
  with _readable(path):
    return path.stat().st_size


def check_fields(paths: list[pathlib.Path], field: str) -> None:
  """Tells a wrong field at once, by the first file that is not empty.

  Args:
    paths: as `find_files` returns them.
    field: the field with the text, where records have fields.

  Raises:
    UserError: the file has no such field.
  """
  path = next((path for path in paths if file_size(path)), None)
  if path is None:
    return
  with _readable(path):
    if _reader(path) is _read_json:
      check_field(_first_objects(path), field, str(path))
    elif path.suffix.lower() == ".parquet":  # Packed ones: as they are read.
      _check_column(path, field)


def _check_column(path: pathlib.Path, field: str) -> None:
  import pyarrow.parquet  # Heavy, for this format only.

  try:
    names = pyarrow.parquet.read_schema(path).names
  except (pyarrow.ArrowException, OSError, UnicodeError) as error:
    if getattr(error, "errno", None) is not None:
      raise
    return  # A damaged file is told, and counted, when it is read.
  _column(path, names, field)


def _first_objects(path: pathlib.Path) -> list[Any]:
  """The JSON in a file's first lines; what is damaged is told by the reader."""
  found: list[Any] = []
  with contextlib.suppress(*_DAMAGED):
    for line in itertools.islice(_split_lines(_chunks(path)), _FIRST):
      with contextlib.suppress(ValueError, RecursionError):
        found.append(json.loads(line or b""))
  return found


def _column(path: pathlib.Path, names: list[str], field: str) -> str:
  """The column of a parquet file that holds a field."""
  column = field if field in names else field.partition(".")[0]
  if column not in names:
    raise errors.UserError(
      f"{str(path)!r} has no column {column!r}; it has {', '.join(names)}; "
      "name one of them behind a #"
    )
  return column


def read_files(
  paths: list[pathlib.Path], field: str, tally: Tally
) -> Iterator[str]:
  """Yields the documents of files, one file after the other.

  Args:
    paths: as `find_files` returns them.
    field: the field with the text, where records have fields.
    tally: receives the bad records, which are skipped.
  """
  for path in paths:
    if not file_size(path):
      tally.bad(str(path), "empty file")
      continue
    with _readable(path):
      yield from _reader(path)(path, field, tally)


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Generator[None, None, None]:
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"cannot read {str(path)!r}: {error.strerror or error}; expected a "
      "readable file; check its permissions and its disk"
    ) from error


def _read_paragraphs(
  path: pathlib.Path, field: str, tally: Tally
) -> Iterator[str]:
  del field  # Plain text has no fields.
  lines: list[str] = []
  size = 0
  for _, line in _lines(path, tally):
    if line.strip() and size < _LONGEST_PARAGRAPH:
      lines.append(line)
      size += len(line)
      continue
    if lines:
      yield "\n".join(lines)
    lines = [line] if line.strip() else []
    size = sum(map(len, lines))
  if lines:
    yield "\n".join(lines)


def _read_json(path: pathlib.Path, field: str, tally: Tally) -> Iterator[str]:
  for number, line in _lines(path, tally):
    if not line.strip():
      continue
    try:
      yield text_of(json.loads(line), field)
    except (ValueError, RecursionError):  # Also numbers of 4,301 digits.
      tally.bad(f"{path}:{number}", "not a JSON object on one line")
    except BadRecordError as error:
      tally.bad(f"{path}:{number}", str(error))


def _read_parquet(
  path: pathlib.Path, field: str, tally: Tally
) -> Iterator[str]:
  import pyarrow.parquet  # Heavy, for this format only.

  packed = path.suffix.lower() in (".gz", ".zst")
  try:
    place = io.BytesIO(_unpacked(path)) if packed else path
    file = pyarrow.parquet.ParquetFile(place, page_checksum_verification=True)
    column = _column(path, file.schema_arrow.names, field)
    row = 0
    for batch in file.iter_batches(columns=[column], batch_size=1024):
      for record in batch.to_pylist():
        row += 1
        try:
          yield text_of(record, field)
        except BadRecordError as error:
          tally.bad(f"{path}: row {row}", str(error))
  except (*_DAMAGED, pyarrow.ArrowException, OSError, UnicodeError) as error:
    if getattr(error, "errno", None) is not None:
      raise  # The disk's fault; parquet's own errors have no number.
    tally.bad(str(path), f"damaged parquet file, its rest is left out: {error}")


def _lines(path: pathlib.Path, tally: Tally) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, line) for each line that is valid UTF-8."""
  number = 0
  try:
    chunks = _checked(_chunks(path), path)
    for number, raw in enumerate(_split_lines(chunks), start=1):
      if raw is None:
        why = f"a line longer than {_LONGEST_LINE:,} bytes"
        tally.bad(f"{path}:{number}", why)
        continue
      try:
        line = raw.decode("utf-8").rstrip("\r")
      except UnicodeDecodeError:
        tally.bad(f"{path}:{number}", "invalid UTF-8")
        continue
      if "\0" in line:
        tally.bad(f"{path}:{number}", "a NUL, which no text has")
        continue
      yield number, line.removeprefix("\ufeff") if number == 1 else line
  except _DAMAGED as error:
    why = f"damaged file, its rest is left out ({error or 'it ends early'})"
    tally.bad(f"{path}:{number + 1}", why)
    return
  if not number:
    tally.bad(str(path), "empty file")


def _checked(chunks: Iterable[bytes], path: pathlib.Path) -> Iterator[bytes]:
  """The same chunks; UserError where they begin as no UTF-8 does."""
  head = b""
  for chunk in chunks:
    if len(head) < HEAD:
      head += chunk[: HEAD - len(head)]
      text_encoding.check_start(head, repr(str(path)))
    yield chunk


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
  """Yields lines; None for one that is too long."""
  rest: list[bytes] = []
  size = 0
  for chunk in chunks:
    first, *others = chunk.split(b"\n")
    for ending, piece in enumerate([first, *others]):
      if ending:
        yield b"".join(rest) if size <= _LONGEST_LINE else None
        rest, size = [], 0
      size += len(piece)
      if size <= _LONGEST_LINE:
        rest.append(piece)
      else:
        rest = []
  if size > _LONGEST_LINE:
    yield None
  elif last := b"".join(rest):
    yield last


def _unpacked(path: pathlib.Path) -> bytes:
  parts, size = [], 0
  for chunk in _chunks(path):
    size += len(chunk)
    if size > _LARGEST_PACKED:
      raise errors.UserError(
        f"{str(path)!r} unpacks to more than {_LARGEST_PACKED:,} bytes; unpack "
        "it on disk: parquet is compressed inside, and is read in pieces"
      )
    parts.append(chunk)
  return b"".join(parts)


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
  suffix = path.suffix.lower()
  with path.open("rb") as file:
    if suffix == ".zst":
      yield from _zst_chunks(file)
      return
    plain = gzip.GzipFile(fileobj=file) if suffix == ".gz" else file
    # Unlike read, read1 hands out what comes before the damage in a file.
    while chunk := plain.read1(_CHUNK_BYTES):
      yield chunk


def _zst_chunks(file: BinaryIO) -> Iterator[bytes]:
  # The library's own stream reader ends a truncated file without an error.
  decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
  frame = None
  while chunk := file.read(_ZST_BYTES):
    while chunk:
      frame = frame or decompressor.decompressobj()
      data = frame.decompress(chunk)
      for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]
      chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
  if frame is not None:
    raise EOFError
