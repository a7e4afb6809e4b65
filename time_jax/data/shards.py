"""One block of text to one file of rows.

This is what a worker process of `prepare` does.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np
from array_record.python import array_record_module
from numpy.typing import NDArray

from time_jax.core import errors
from time_jax.core.storage.atomic_file import (
  from_json,
  read_json,
  write_json,
)
from time_jax.core.storage.paths import Path
from time_jax.data import packing
from time_jax.data.tf_example import FEATURES, serialize
from time_jax.data.tokenizing import TokenizerSpec, WindowEncoder


@dataclasses.dataclass(frozen=True)
class RowFormat:
  """How text becomes rows.

  Attributes:
    tokenizer: the teacher's tokenizer.
    seq_len: places in a row.
    packing: "pack" cuts long documents into windows and puts several into a
      row; "none" keeps the first window of each document, one to a row.
  """

  tokenizer: TokenizerSpec
  seq_len: int = 512
  packing: str = "pack"


@dataclasses.dataclass(frozen=True)
class Block:
  """The documents of one shard.

  Attributes:
    split: name of the split.
    number: of the block in its split, from 0.
    documents: texts, none of them empty.
    empty_documents: documents without text, up to the end of this block.
    bad_records: unreadable records, up to the end of this block.
    token_limit: tokens after which the shard ends; 0 is no limit.
  """

  split: str
  number: int
  documents: tuple[str, ...]
  empty_documents: int
  bad_records: int
  token_limit: int = 0


@dataclasses.dataclass(frozen=True)
class Written:
  """Counts and hashes of a shard, kept in a JSON file beside it.

  Attributes:
    text_sha256: hash of the documents of the block.
    token_limit: that of the block.
    documents: documents that are wholly in the shard.
    text_bytes: UTF-8 bytes of these documents.
    tokens: tokens in all rows, special ones included, padding excluded.
    rows: number of rows.
    size: bytes of the shard.
    sha256: hash of the shard.
  """

  text_sha256: str
  token_limit: int
  documents: int
  text_bytes: int
  tokens: int
  rows: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class ShardWriter:
  """Turns blocks into shards; lives in a worker process.

  Attributes:
    folder: receives the shards.
    row_format: how text becomes rows.
  """

  folder: Path
  row_format: RowFormat

  @functools.cached_property
  def encoder(self) -> WindowEncoder:
    """The tokenizer; UserError when it cannot serve."""
    return WindowEncoder(self.row_format.tokenizer, self.row_format.seq_len)

  def write(self, block: Block) -> Written:
    """Writes the shard and then its counts, unless both are there."""
    shard = self.folder / block_file(block.split, block.number)
    digest = _text_sha256(block.documents)
    if written := _read_written(shard, block, digest):
      return written
    # Never leave these counts beside a shard that they do not describe.
    shard.with_suffix(".json").unlink(missing_ok=True)
    windows, documents, text_bytes = self._windows(block)
    seq_len = self.row_format.seq_len
    rows = [[index] for index in range(len(windows))]
    if self.row_format.packing == "pack":
      rows = packing.pack([len(window) for window in windows], seq_len)
    tokens, segment_ids = packing.lay_out(
      windows, rows, seq_len=seq_len, pad_id=self.row_format.tokenizer.pad_id
    )
    size, sha256 = _write_rows(shard, tokens, segment_ids)
    written = Written(
      text_sha256=digest,
      token_limit=block.token_limit,
      documents=documents,
      text_bytes=text_bytes,
      tokens=sum(map(len, windows)),
      rows=len(rows),
      size=size,
      sha256=sha256,
    )
    counts = dataclasses.asdict(written)
    write_json(shard.with_suffix(".json"), counts, sort_keys=True)
    return written

  def _windows(self, block: Block) -> tuple[list[NDArray[np.int32]], int, int]:
    """Returns windows, and how many documents and bytes are wholly in them."""
    encode = self.encoder.first_windows
    if self.row_format.packing == "pack":
      encode = self.encoder.all_windows
    windows: list[NDArray[np.int32]] = []
    tokens = documents = text_bytes = 0
    for document, own in zip(
      block.documents, encode(block.documents), strict=True
    ):
      for window in own:
        tokens += len(window)
        if block.token_limit and tokens > block.token_limit:
          return windows, documents, text_bytes
        windows.append(window)
      documents += 1
      text_bytes += len(document.encode())
    return windows, documents, text_bytes


def block_file(split: str, number: int) -> str:
  """Returns the name of the shard of a block until all are finished."""
  return f"{split}-{number:05d}.record"


def _read_written(
  shard: Path, block: Block, text_sha256: str
) -> Written | None:
  """Returns the counts of a shard that is whole and of this block."""
  try:
    written = from_json(Written, read_json(shard.with_suffix(".json")))
  except (FileNotFoundError, *errors.DAMAGED_JSON):
    return None  # The block is written again.
  if written.text_sha256 != text_sha256:
    raise errors.UserError(
      f"the text of {shard.stem} is not what it was when {str(shard)!r} was "
      "written; expected unchanged sources; prepare into a new folder"
    )
  is_same = (
    written.token_limit == block.token_limit
    and written.rows <= written.size  # Damage may make it absurd.
    and shard.exists()
    and shard.stat().st_size == written.size
  )
  return written if is_same else None


def _text_sha256(documents: Sequence[str]) -> str:
  digest = hashlib.sha256()
  for document in documents:
    text = document.encode()
    digest.update(b"%d:" % len(text) + text)
  return digest.hexdigest()


def _write_rows(
  path: Path,
  tokens: NDArray[np.int32],
  segment_ids: NDArray[np.int32],
) -> tuple[int, str]:
  """Writes an ArrayRecord file; returns its size and hash."""
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  try:
    # One row to a group: a random read decompresses nothing else. Level 1
    # makes rows of ids smaller than the default, 3, and in less time.
    writer = array_record_module.ArrayRecordWriter(
      str(temporary), "group_size:1,zstd:1"
    )
    for row in zip(tokens, segment_ids, strict=True):
      writer.write(serialize(dict(zip(FEATURES, row, strict=True))))
    writer.close()
  except RuntimeError as error:  # The library's word for a full disk.
    temporary.unlink(missing_ok=True)
    raise OSError(str(error)) from error
  with temporary.open("rb") as file:
    os.fsync(file.fileno())
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
  size = temporary.stat().st_size
  temporary.replace(path)
  return size, sha256
