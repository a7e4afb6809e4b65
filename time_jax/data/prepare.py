"""Text to tokenised rows on disk, on every core, and resumable at any point.

The result is a folder that TensorFlow Datasets reads, with or without
TensorFlow: `tfds.data_source("time_rows", data_dir=FOLDER, split="train")`.

The text of a split is cut into blocks; each becomes one shard. Until all is
done, what is done lies in FOLDER/unfinished:

  plan.json           the settings; a run with others is refused
  train-00007.record  a finished shard (ArrayRecord)
  train-00007.json    its counts and hashes, written after it
  manifest.json       written when every shard is there

The text of a block and the settings alone decide the bytes of its shard, and
every file gets its name only once it is complete. So a run that was killed at
any moment is repeated by the same call, which skips the finished blocks and
ends with the same bytes as an undisturbed run.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import tqdm

from time_jax.core import errors
from time_jax.core.storage.atomic_file import read_json, write_json
from time_jax.core.storage.paths import Path, delete, list_files, local_path
from time_jax.data import manifest as manifests
from time_jax.data import sources, text_files, workers
from time_jax.data.manifest import Manifest, is_prepared, load_manifest
from time_jax.data.records import Tally
from time_jax.data.shards import (
  Block,
  RowFormat,
  ShardWriter,
  Written,
  block_file,
)

_RUN_AGAIN = "finished shards are kept; run the same command again to go on"


@dataclasses.dataclass(frozen=True)
class Limits:
  """Where each split ends, and how much of its text may be unreadable.

  Attributes:
    max_tokens: a split ends before it exceeds so many; 0 is no limit.
    max_documents: a split ends after so many; 0 is no limit.
    max_bad_records: unreadable records that a split may skip.
    enough_rows: a split ends with the block that gives it so many rows; 0: it
      is whole. The rows up to there are those of the whole split.
  """

  max_tokens: int = 0
  max_documents: int = 0
  max_bad_records: int = 100
  enough_rows: int = 0


def prepare(
  folder: str | os.PathLike[str],
  splits: Mapping[str, Sequence[str]],
  row_format: RowFormat,
  *,
  limits: Limits | None = None,
  shard_text_mb: float | int = 16,
  num_workers: int | None = None,
  progress: bool = True,
) -> Manifest:
  """Tokenises text into fixed-length rows; returns at once when it is done.

  With more than one worker, processes are spawned: the calling script needs
  the usual `if __name__ == "__main__":`.

  Args:
    folder: receives the rows; on a file system, made when missing.
    splits: for each split, such as "train", its sources of text.
    row_format: the tokenizer, and how its tokens become rows.
    limits: of every split; by default those of `Limits`.
    shard_text_mb: MiB of text that become one shard.
    num_workers: processes; all cores by default; 1 is this process alone.
    progress: shows a progress bar when stderr is a terminal.

  Returns:
    The manifest, as also written to the folder.

  Raises:
    UserError: wrong settings or text, or a folder of other settings or text.
  """
  folder, limits = local_path(os.fspath(folder)), limits or Limits()
  # Everything that decides the bytes of the rows. It is a format: a folder is
  # known by the hash of this.
  settings = {
    "splits": {name: list(texts) for name, texts in splits.items()},
    "tokenizer_sha256": row_format.tokenizer.sha256,
    "pad_id": row_format.tokenizer.pad_id,
    "vocab_size": row_format.tokenizer.vocab_size,
    "seq_len": row_format.seq_len,
    "packing": row_format.packing,
    "shard_text_mb": float(shard_text_mb),
    "max_tokens": limits.max_tokens,
    "max_documents": limits.max_documents,
  }
  if limits.enough_rows:
    settings["enough_rows"] = limits.enough_rows
  unfinished = _unfinished(folder)
  with explained_errors(folder):
    if is_prepared(folder):
      manifest = _load_same(folder, folder, settings)
      delete(unfinished)
      return manifest
    _start_or_resume(folder, settings)
    if is_prepared(unfinished):
      _load_same(unfinished, folder, settings)
    else:
      # All sources are looked up first: a wrong path fails before any work.
      texts = {name: _open_text(x, limits) for name, x in splits.items()}
      made = {}
      writer = ShardWriter(unfinished, row_format)
      with workers.submitter(writer, num_workers) as (submit, in_flight):
        # While the workers start: a wrong tokenizer fails before it has work.
        _ = writer.encoder
        for name, text in texts.items():
          blocks = _blocks(name, text, float(shard_text_mb))
          shards = workers.in_order(submit, in_flight, blocks)
          with contextlib.closing(shards):
            done = _until_limit(shards, submit, limits, progress)
          made[name] = _split_manifest(name, text.files, settings, done)
      manifest = Manifest(
        version=manifests.MANIFEST_FORMAT,
        fingerprint=manifests.fingerprint(settings),
        tokenizer_sha256=row_format.tokenizer.sha256,
        settings=settings,
        splits=made,
      )
      content = dataclasses.asdict(manifest)
      write_json(unfinished / manifests.MANIFEST, content, sort_keys=True)
    return _finish(folder)


def plan_of(folder: Path) -> Path:
  """Returns the file with the settings of text whose preparation has begun."""
  return _unfinished(folder) / "plan.json"


def _unfinished(folder: Path) -> Path:
  return folder / "unfinished"


@contextlib.contextmanager
def explained_errors(folder: Path) -> Generator[None, None, None]:
  """Raises a UserError for what ends the work on a folder from outside.

  Args:
    folder: receives the rows.
  """
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {folder}: {errors.explain_unwritable(error)}; "
      f"{_RUN_AGAIN}"
    ) from error
  except futures.BrokenExecutor as error:
    raise errors.UserError(
      "a worker process of `prepare` ended early, most often for lack of "
      f"memory; expected it to live; lower num_workers; {_RUN_AGAIN}"
    ) from error


def _start_or_resume(folder: Path, settings: dict[str, Any]) -> None:
  """Writes down the settings, or compares them with those of what is there."""
  unfinished, plan = _unfinished(folder), plan_of(folder)
  unfinished.mkdir(parents=True, exist_ok=True)
  for leftover in list_files(unfinished, "*.tmp"):
    leftover.unlink()
  # Without a shard, as after a mistyped path, other settings may follow.
  if not (plan.exists() and any(path != plan for path in unfinished.iterdir())):
    return write_json(plan, settings, sort_keys=True)
  try:
    planned = dict(read_json(plan))
  except errors.DAMAGED_JSON as error:
    raise errors.UserError(
      f"{str(plan)!r} is damaged: {error}; expected the settings of prepared "
      "text; name another folder or delete this one"
    ) from error
  return _refuse_other_settings(folder, planned, settings)


def _load_same(place: Path, folder: Path, settings: dict[str, Any]) -> Manifest:
  """Reads a manifest that was made with these settings from this text."""
  manifest = load_manifest(place)
  _refuse_other_settings(folder, manifest.settings, settings)
  for split in manifest.splits.values():
    for file in split.files:
      # Rows may be used where their text is not: a file that is gone is fine.
      size = os.path.getsize(file.path) if os.path.isfile(file.path) else None
      if size not in (None, file.size):
        raise errors.UserError(
          f"{str(folder)!r} was prepared when {file.path!r} had {file.size} "
          f"bytes, now it has {size}; expected unchanged text; name another "
          "folder or delete this one"
        )
  return manifest


def _refuse_other_settings(
  folder: Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
  # It is absent where text was prepared before there was such a limit.
  before = {"max_documents": 0} | before
  differences = [
    f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
    for name in sorted({*before, *now})
    if before.get(name) != now.get(name)
  ]
  if differences:
    raise errors.UserError(
      f"{str(folder)!r} was prepared with other settings: "
      f"{'; '.join(differences)}; expected the same; name another folder or "
      "delete this one"
    )


@dataclasses.dataclass(frozen=True)
class _Text:
  """The documents of a split, their local files, and the count of both."""

  documents: Iterator[str]
  files: tuple[manifests.SourceFile, ...]
  tally: Tally


def _open_text(names: Sequence[str], limits: Limits) -> _Text:
  tally = Tally(limits.max_bad_records)
  parsed = [sources.Source.parse(name) for name in names]
  files = tuple(
    manifests.SourceFile(str(path), text_files.file_size(path))
    for path in sources.local_files(parsed)
  )
  documents = sources.documents(parsed, tally)
  # What comes after the limit is not even read.
  limited = itertools.islice(documents, limits.max_documents or None)
  return _Text(limited, files, tally)


def _blocks(split: str, text: _Text, shard_text_mb: float) -> Iterator[Block]:
  """Groups documents, in order, into blocks of about this many MiB."""
  tally, size = text.tally, shard_text_mb * 2**20
  for number in itertools.count():
    start = tally.text_bytes
    documents: list[str] = []
    for document in text.documents:
      documents.append(document)
      if tally.text_bytes - start >= size:
        break
    counts = tally.empty_documents, tally.bad_records
    yield Block(split, number, tuple(documents), *counts)
    if tally.text_bytes - start < size:  # The text is at its end.
      return


def _until_limit(
  shards: Iterator[tuple[Block, Written]],
  submit: workers.Submit,
  limits: Limits,
  progress: bool,
) -> list[tuple[Block, Written]]:
  """Returns each block, without its text, and the counts of its shard.

  Args:
    shards: blocks and the counts of their shards, in order.
    submit: writes the last shard again, where it exceeds the limit.
    limits: see there.
    progress: whether there is a progress bar.
  """
  done: list[tuple[Block, Written]] = []
  tokens = rows = 0
  max_tokens, enough_rows = limits.max_tokens, limits.enough_rows
  hidden = None if progress else True  # None: hidden without a terminal.
  with tqdm.tqdm(
    desc="prepare", unit="B", unit_scale=True, disable=hidden
  ) as bar:
    for block, written in shards:
      if max_tokens and tokens + written.tokens > max_tokens:
        limited = dataclasses.replace(block, token_limit=max_tokens - tokens)
        written = submit(limited).result()
      done.append((dataclasses.replace(block, documents=()), written))
      tokens += written.tokens
      rows += written.rows
      bar.set_postfix(split=block.split, tokens=tokens, refresh=False)
      bar.update(written.text_bytes)
      if written.token_limit or tokens == max_tokens:
        break
      if enough_rows and rows >= enough_rows:
        break
  return done


def _split_manifest(
  split: str,
  files: tuple[manifests.SourceFile, ...],
  settings: dict[str, Any],
  done: list[tuple[Block, Written]],
) -> manifests.SplitManifest:
  filled = [(block, written) for block, written in done if written.rows]
  tokens = sum(written.tokens for _, written in filled)
  rows = sum(written.rows for _, written in filled)
  if not rows:
    raise errors.UserError(
      f"the split {split!r} gives no rows: its text has no tokens within "
      f"max_tokens={settings['max_tokens']}; expected some; name other "
      "sources or raise max_tokens"
    )
  stem, total = f"{manifests.NAME}-{split}.array_record", len(filled)
  shards = tuple(
    manifests.Shard(
      name=f"{stem}-{index:05d}-of-{total:05d}",
      block=block.number,
      rows=written.rows,
      size=written.size,
      sha256=written.sha256,
    )
    for index, (block, written) in enumerate(filled)
  )
  last, _ = done[-1]
  return manifests.SplitManifest(
    sources=tuple(settings["splits"][split]),
    files=files,
    documents=sum(written.documents for _, written in done),
    empty_documents=last.empty_documents,
    bad_records=last.bad_records,
    text_bytes=sum(written.text_bytes for _, written in done),
    tokens=tokens,
    rows=rows,
    packing_efficiency=tokens / (rows * settings["seq_len"]),
    shards=shards,
  )


def _finish(folder: Path) -> Manifest:
  """Gives every file its final name; may be repeated from any point."""
  unfinished, final = _unfinished(folder), manifests.shard_folder(folder)
  manifest = load_manifest(unfinished)
  final.mkdir(parents=True, exist_ok=True)
  names = {s.name for split in manifest.splits.values() for s in split.shards}
  for stale in list_files(final, f"{manifests.NAME}-*.array_record-*"):
    if stale.name not in names:
      stale.unlink()
  for split, content in manifest.splits.items():
    for shard in content.shards:
      with contextlib.suppress(FileNotFoundError):  # Moved by a killed run.
        source = unfinished / block_file(split, shard.block)
        source.replace(final / shard.name)
  manifests.write_metadata(final, manifest)
  # From here on the folder counts as prepared.
  (unfinished / manifests.MANIFEST).replace(folder / manifests.MANIFEST)
  delete(unfinished)
  return manifest
