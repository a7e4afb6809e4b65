"""Local files to documents: plain text, JSON lines and parquet.

Each may be plain, `.gz` or `.zst`. Of a damaged file only the damaged records
are lost, or what comes after the damage.
"""

import contextlib
import glob
import io
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from time_jax.core import errors
from time_jax.core.storage import text_encoding
from time_jax.core.storage.paths import Path
from time_jax.core.storage.text_encoding import HEAD
from time_jax.data import compressed
from time_jax.data.records import BadRecordError, Tally, check_field, text_of

# A .txt file without any blank line must not have to fit into memory.
_LONGEST_PARAGRAPH = 1 << 20
_FIRST = 100  # lines that are looked at before reading
_Reader = Callable[[Path, str, Tally], Iterator[str]]


def find_files(pattern: str) -> list[Path]:
  """Returns the files that a path or glob names, in sorted order.

  Args:
    pattern: path or glob; `~` stands for the home folder. A path that exists is
      no glob, even with [ or * in its name.

  Raises:
    UserError: there is no such file, or one that is not of a known kind.
  """
  pattern = os.path.expanduser(pattern)
  exact = os.path.exists(pattern)
  names = [pattern] if exact else glob.glob(pattern, recursive=True)
  paths = [Path(name) for name in sorted(names)]
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


def file_size(path: Path) -> int:
  """Returns the bytes of a file."""
  with _explained_errors(path):
    return path.stat().st_size


def check_fields(paths: list[Path], field: str) -> None:
  """Checks the field of the first file that is not empty, before reading.

  Args:
    paths: as `find_files` returns them.
    field: the field with the text, where records have fields.

  Raises:
    UserError: the file has no such field.
  """
  path = next((path for path in paths if file_size(path)), None)
  if path is None:
    return
  with _explained_errors(path):
    if _reader(path) is _read_json:
      check_field(_first_objects(path), field, str(path))
    elif path.suffix.lower() == ".parquet":  # Packed ones: as they are read.
      import pyarrow.parquet  # Heavy, for this format only.

      try:
        names = pyarrow.parquet.read_schema(path).names
      except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        if getattr(error, "errno", None) is not None:
          raise
        return  # A damaged file is reported, and counted, when it is read.
      _column(path, names, field)


def read_files(paths: list[Path], field: str, tally: Tally) -> Iterator[str]:
  """Yields the documents of files, one file after the other.

  Args:
    paths: as `find_files` returns them.
    field: the field with the text, where records have fields.
    tally: counts the bad records, which are skipped.
  """
  for path in paths:
    if not file_size(path):
      tally.bad(str(path), "empty file")
      continue
    reader = _reader(path)
    assert reader
    with _explained_errors(path):
      yield from reader(path, field, tally)


def _reader(path: Path) -> _Reader | None:
  """Returns the reader of a kind of file, or None for an unknown kind."""
  name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
  return {
    ".txt": _read_paragraphs,
    ".parquet": _read_parquet,
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), _read_json),
  }.get(os.path.splitext(f"x{name}")[1])


@contextlib.contextmanager
def _explained_errors(path: Path) -> Generator[None, None, None]:
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"cannot read {str(path)!r}: {error.strerror or error}; expected a "
      "readable file; check its permissions and its disk"
    ) from error


def _first_objects(path: Path) -> list[Any]:
  """Returns the JSON of a file's first lines that are JSON."""
  objects: list[Any] = []
  with contextlib.suppress(*compressed.DAMAGED):
    lines = compressed.split_lines(compressed.chunks(path))
    for line in itertools.islice(lines, _FIRST):
      with contextlib.suppress(ValueError, RecursionError):
        objects.append(json.loads(line or b""))
  return objects


def _column(path: Path, names: list[str], field: str) -> str:
  """Returns the column of a parquet file that holds a field."""
  column = field if field in names else field.partition(".")[0]
  if column not in names:
    raise errors.UserError(
      f"{str(path)!r} has no column {column!r}; it has {', '.join(names)}; "
      "name one of them after a #"
    )
  return column


def _read_paragraphs(path: Path, field: str, tally: Tally) -> Iterator[str]:
  del field  # Plain text has no fields.
  lines: list[str] = []
  size = 0
  for _, line in _lines(path, tally):
    is_blank = not line.strip()
    if lines and (is_blank or size >= _LONGEST_PARAGRAPH):
      yield "\n".join(lines)
      lines, size = [], 0
    if not is_blank:
      lines.append(line)
      size += len(line)
  if lines:
    yield "\n".join(lines)


def _read_json(path: Path, field: str, tally: Tally) -> Iterator[str]:
  for number, line in _lines(path, tally):
    if not line.strip():
      continue
    try:
      yield text_of(json.loads(line), field)
    except (ValueError, RecursionError):  # Also numbers of 4,301 digits.
      tally.bad(f"{path}:{number}", "not a JSON object on one line")
    except BadRecordError as error:
      tally.bad(f"{path}:{number}", str(error))


def _read_parquet(path: Path, field: str, tally: Tally) -> Iterator[str]:
  import pyarrow.parquet  # Heavy, for this format only.

  is_packed = path.suffix.lower() in compressed.ENDINGS
  try:
    place = io.BytesIO(compressed.unpacked(path)) if is_packed else path
    file = pyarrow.parquet.ParquetFile(place, page_checksum_verification=True)
    column = _column(path, file.schema_arrow.names, field)
    batches = file.iter_batches(columns=[column], batch_size=1024)
    records = (record for batch in batches for record in batch.to_pylist())
    for row, record in enumerate(records, start=1):
      try:
        yield text_of(record, field)
      except BadRecordError as error:
        tally.bad(f"{path}: row {row}", str(error))
  except (
    *compressed.DAMAGED,
    *(pyarrow.ArrowException, OSError, UnicodeError),
  ) as error:
    if getattr(error, "errno", None) is not None:
      raise  # The disk's fault; parquet's own errors have no number.
    tally.bad(str(path), f"damaged parquet file, its rest is left out: {error}")


def _lines(path: Path, tally: Tally) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, line) for each line that is valid UTF-8."""
  number = 0
  try:
    chunks = _checked_chunks(compressed.chunks(path), path)
    for number, raw in enumerate(compressed.split_lines(chunks), start=1):
      if raw is None:
        why = f"a line longer than {compressed.LONGEST_LINE:,} bytes"
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
  except compressed.DAMAGED as error:
    why = f"damaged file, its rest is left out ({error or 'it ends early'})"
    tally.bad(f"{path}:{number + 1}", why)
    return
  if not number:
    tally.bad(str(path), "empty file")


def _checked_chunks(chunks: Iterable[bytes], path: Path) -> Iterator[bytes]:
  """Yields the chunks; raises UserError where they start as no UTF-8 does."""
  head = b""
  for chunk in chunks:
    if len(head) < HEAD:
      head += chunk[: HEAD - len(head)]
      text_encoding.check_start(head, repr(str(path)))
    yield chunk
