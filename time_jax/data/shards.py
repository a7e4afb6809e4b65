"""One block of text to one file of rows.

This is what a worker process of `prepare` does.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from array_record.python import array_record_module
from numpy.typing import NDArray

from time_jax.core import errors
from time_jax.core.storage.atomic_file import from_json, write_json
from time_jax.data import packing as row_packing
from time_jax.data.tf_example import FEATURES, serialize
from time_jax.data.tokenizing import TokenizerSpec, WindowEncoder


@dataclasses.dataclass(frozen=True)
class Block:
  """The documents of one shard, and what was skipped up to its end."""

  split: str
  number: int
  documents: tuple[str, ...]
  empty_documents: int
  bad_records: int
  token_limit: int = 0


@dataclasses.dataclass(frozen=True)
class Written:
  """What a block has become; kept beside its shard."""

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
    work: the folder that receives the shards.
    tokenizer: the teacher's tokenizer.
    seq_len: places in a row.
    packing: "pack" or "none", as for `prepare`.
  """

  work: pathlib.Path
  tokenizer: TokenizerSpec
  seq_len: int
  packing: str

  @functools.cached_property
  def _encoder(self) -> WindowEncoder:
    return WindowEncoder(self.tokenizer, self.seq_len)

  def check(self) -> None:
    """Raises a UserError when the tokenizer cannot serve."""
    WindowEncoder(self.tokenizer, self.seq_len)

  def write(self, block: Block) -> Written:
    """Writes the shard and then its counts, unless both are there."""
    shard = self.work / block_file(block.split, block.number)
    digest = _text_sha256(block.documents)
    if written := self._read(shard, block, digest):
      return written
    # Never leave these counts beside a shard that they do not describe.
    shard.with_suffix(".json").unlink(missing_ok=True)
    pieces, documents, text_bytes = self._pieces(block)
    rows = self._rows(pieces)
    tokens, segment_ids = row_packing.lay_out(
      pieces, rows, seq_len=self.seq_len, pad_id=self.tokenizer.pad_id
    )
    size, sha256 = _write_rows(shard, tokens, segment_ids)
    written = Written(
      text_sha256=digest,
      token_limit=block.token_limit,
      documents=documents,
      text_bytes=text_bytes,
      tokens=sum(map(len, pieces)),
      rows=len(rows),
      size=size,
      sha256=sha256,
    )
    write_json(
      shard.with_suffix(".json"), dataclasses.asdict(written), sort_keys=True
    )
    return written

  def _read(
    self, shard: pathlib.Path, block: Block, digest: str
  ) -> Written | None:
    counts = shard.with_suffix(".json")
    try:
      written = from_json(Written, json.loads(counts.read_text()))
    except (FileNotFoundError, *errors.DAMAGED_JSON):
      return None  # The block is written again.
    if written.text_sha256 != digest:
      raise errors.UserError(
        f"the text of {shard.stem} is not what it was when {str(shard)!r} was "
        "written; expected unchanged sources; prepare into a new folder"
      )
    same = written.token_limit == block.token_limit and shard.exists()
    same = same and written.rows <= written.size  # Damage may make it absurd.
    return written if same and shard.stat().st_size == written.size else None

  def _pieces(self, block: Block) -> tuple[list[NDArray[np.int32]], int, int]:
    """Returns the pieces, and how many documents and bytes they came from."""
    pack = self.packing == "pack"
    encode = self._encoder.all_windows if pack else self._encoder.first_windows
    pieces: list[NDArray[np.int32]] = []
    tokens = documents = text_bytes = 0
    windows_of = encode(block.documents)
    for document, windows in zip(block.documents, windows_of, strict=True):
      for window in windows:
        tokens += len(window)
        if block.token_limit and tokens > block.token_limit:
          return pieces, documents, text_bytes
        pieces.append(window)
      documents += 1
      text_bytes += len(document.encode())
    return pieces, documents, text_bytes

  def _rows(self, pieces: list[NDArray[np.int32]]) -> list[list[int]]:
    if self.packing == "pack":
      return row_packing.pack([len(piece) for piece in pieces], self.seq_len)
    return [[index] for index in range(len(pieces))]


def block_file(split: str, number: int) -> str:
  """Returns the name of the shard of a block until all are finished."""
  return f"{split}-{number:05d}.record"


def _text_sha256(documents: Sequence[str]) -> str:
  digest = hashlib.sha256()
  for document in documents:
    text = document.encode()
    digest.update(b"%d:" % len(text) + text)
  return digest.hexdigest()


def _write_rows(
  path: pathlib.Path,
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
