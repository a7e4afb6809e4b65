"""Text to tokenised rows on disk, with every core, in steps that survive.

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
import json
import os
import pathlib
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import tqdm

from time_jax.core import errors
from time_jax.core.storage.atomic_file import write_json
from time_jax.data import manifest as manifests
from time_jax.data import sources, text_files, workers
from time_jax.data.manifest import Manifest, is_prepared, load_manifest
from time_jax.data.records import Tally
from time_jax.data.shards import Block, ShardWriter, Written, block_file
from time_jax.data.tokenizing import TokenizerSpec

_RUN_AGAIN = "finished shards are kept; run the same command again to go on"


def prepare(
  folder: str | os.PathLike[str],
  *,
  splits: Mapping[str, Sequence[str]],
  tokenizer: TokenizerSpec,
  seq_len: int = 512,
  packing: str = "pack",
  shard_text_mb: float | int = 16,
  max_bad_records: int = 100,
  max_tokens: int = 0,
  max_documents: int = 0,
  num_workers: int | None = None,
  progress: bool = True,
) -> Manifest:
  """Tokenises text into fixed-length rows; returns at once when it is done.

  With more than one worker, processes are spawned: the calling script needs
  the usual `if __name__ == "__main__":`.

  Args:
    folder: receives the rows; on a file system, made when missing.
    splits: for each split, such as "train", its sources of text.
    tokenizer: the teacher's tokenizer.
    seq_len: places in a row.
    packing: "pack" cuts long documents into windows and puts several into a
      row; "none" keeps the first window of each document, one to a row.
    shard_text_mb: MiB of text that become one shard.
    max_bad_records: unreadable records that a split may skip.
    max_tokens: each split ends before it exceeds this; 0 is no limit.
    max_documents: each split ends after so many; 0 is no limit.
    num_workers: processes; all cores by default; 1 is this process alone.
    progress: shows a progress bar when stderr is a terminal.

  Returns:
    The manifest, as also written to the folder.

  Raises:
    UserError: wrong settings or text, or a folder of other settings or text.
  """
  folder = pathlib.Path(folder)
  settings = {
    "splits": {name: list(texts) for name, texts in splits.items()},
    "tokenizer_sha256": tokenizer.sha256,
    "pad_id": tokenizer.pad_id,
    "vocab_size": tokenizer.vocab_size,
    "seq_len": seq_len,
    "packing": packing,
    "shard_text_mb": float(shard_text_mb),
    "max_tokens": max_tokens,
    "max_documents": max_documents,
  }
  _check(folder, settings)
  work = _unfinished(folder)
  with _readable_errors(folder):
    if is_prepared(folder):
      manifest = _load_same(folder, folder, settings)
      shutil.rmtree(work, ignore_errors=True)
      return manifest
    _start_or_resume(folder, settings)
    if is_prepared(work):
      _load_same(work, folder, settings)
    else:
      writer = ShardWriter(work, tokenizer, seq_len, packing)
      manifest = _prepare_splits(
        writer, settings, num_workers, max_bad_records, progress
      )
      write_json(
        work / manifests.MANIFEST, dataclasses.asdict(manifest), sort_keys=True
      )
    return _finish(folder)


@contextlib.contextmanager
def _readable_errors(folder: pathlib.Path) -> Generator[None, None, None]:
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"cannot write to {str(folder)!r}: {errors.unwritable(error)}; "
      f"{_RUN_AGAIN}"
    ) from error
  except futures.BrokenExecutor as error:
    raise errors.UserError(
      "a worker process of `prepare` ended early, most often for lack of "
      f"memory; expected it to live; lower num_workers; {_RUN_AGAIN}"
    ) from error


def _check(folder: pathlib.Path, settings: dict[str, Any]) -> None:
  checks = [
    (":/" not in str(folder), "folder", str(folder), "a local path"),
    (bool(settings["splits"]), "splits", None, "one at least"),
  ]
  for name, bound in (
    ("seq_len", 1),
    ("max_tokens", 0),
    ("max_documents", 0),
  ):
    value = settings[name]
    checks.append((value >= bound, name, value, f"{bound} or more"))
  for name, texts in settings["splits"].items():
    checks.append((name.isidentifier(), "split", name, "one word"))
    checks.append((bool(texts), f"sources of {name}", None, "one at least"))
  size, packing = settings["shard_text_mb"], settings["packing"]
  checks.append((size > 0, "shard_text_mb", size, "more than 0"))
  checks.append((packing in ("pack", "none"), "packing", packing, "pack, none"))
  problems = [
    f"{name} is {value!r}, expected {wanted}"
    for good, name, value, wanted in checks
    if not good
  ]
  if problems:
    raise errors.UserError("cannot prepare: " + "; ".join(problems))


def plan_of(folder: pathlib.Path) -> pathlib.Path:
  """The settings of text that is not prepared to its end."""
  return _unfinished(folder) / "plan.json"


def _unfinished(folder: pathlib.Path) -> pathlib.Path:
  return folder / "unfinished"


def _start_or_resume(folder: pathlib.Path, settings: dict[str, Any]) -> None:
  work = _unfinished(folder)
  work.mkdir(parents=True, exist_ok=True)
  for leftover in work.glob("*.tmp"):
    leftover.unlink()
  plan = plan_of(folder)
  # A first try that made nothing, for a mistyped path say, binds nobody.
  begun = plan.exists() and any(path != plan for path in work.iterdir())
  if begun:
    _refuse_other_settings(folder, _read_plan(plan), settings)
  else:
    write_json(plan, settings, sort_keys=True)


def _read_plan(plan: pathlib.Path) -> dict[str, Any]:
  try:
    return dict(json.loads(plan.read_text()))
  except errors.DAMAGED_JSON as error:
    raise errors.UserError(
      f"{str(plan)!r} is damaged: {error}; expected the settings of prepared "
      "text; name another folder or delete this one"
    ) from error


def _load_same(
  place: pathlib.Path, folder: pathlib.Path, settings: dict[str, Any]
) -> Manifest:
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
  folder: pathlib.Path, saved: dict[str, Any], wanted: dict[str, Any]
) -> None:
  saved = {"max_documents": 0} | saved  # Absent before there was such a limit.
  differences = [
    f"{name} was {saved.get(name)!r}, now {wanted.get(name)!r}"
    for name in sorted({*saved, *wanted})
    if saved.get(name) != wanted.get(name)
  ]
  if differences:
    raise errors.UserError(
      f"{str(folder)!r} was prepared with other settings: "
      f"{'; '.join(differences)}; expected the same; name another folder or "
      "delete this one"
    )


def _prepare_splits(
  writer: ShardWriter,
  settings: dict[str, Any],
  num_workers: int | None,
  max_bad_records: int,
  progress: bool,
) -> Manifest:
  # All sources are looked up first: a wrong path fails before any work.
  texts = {}
  for split, names in settings["splits"].items():
    tally = Tally(max_bad_records)
    parsed = [sources.Source.parse(name) for name in names]
    files = tuple(
      manifests.SourceFile(str(path), text_files.file_size(path))
      for path in sources.local_files(parsed)
    )
    documents = sources.documents(parsed, tally)
    # Whatever is behind the limit is not even read.
    limited = itertools.islice(documents, settings["max_documents"] or None)
    texts[split] = limited, tally, files
  splits = {}
  with workers.submitter(writer, num_workers) as (submit, in_flight):
    # While the workers start; a wrong tokenizer fails before it has any work.
    writer.check()
    for split, (documents, tally, files) in texts.items():
      blocks = _blocks(split, documents, tally, settings["shard_text_mb"])
      written = _write_blocks(
        submit, in_flight, blocks, settings["max_tokens"], progress
      )
      splits[split] = _split_manifest(split, settings, files, written)
  return Manifest(
    version=manifests.MANIFEST_FORMAT,
    fingerprint=manifests.fingerprint(settings),
    tokenizer_sha256=settings["tokenizer_sha256"],
    settings=settings,
    splits=splits,
  )


def _blocks(
  split: str,
  documents: Iterator[str],
  tally: Tally,
  shard_text_mb: float,
) -> Iterator[Block]:
  """Groups documents, in order, into blocks of about this many MiB."""
  number = start = 0
  block: list[str] = []

  def finished() -> Block:
    return Block(
      split, number, tuple(block), tally.empty_documents, tally.bad_records
    )

  for document in documents:
    block.append(document)
    if tally.text_bytes - start >= shard_text_mb * 2**20:
      yield finished()
      number, start, block = number + 1, tally.text_bytes, []
  yield finished()


def _write_blocks(
  submit: workers.Submit,
  in_flight: int,
  blocks: Iterator[Block],
  max_tokens: int,
  progress: bool,
) -> list[tuple[Block, Written]]:
  """Returns each block, without its text, and what became of it."""
  done: list[tuple[Block, Written]] = []
  tokens = 0
  hidden = None if progress else True  # None: hidden without a terminal.
  bar = tqdm.tqdm(desc="prepare", unit="B", unit_scale=True, disable=hidden)
  with (
    bar,
    contextlib.closing(workers.in_order(submit, in_flight, blocks)) as results,
  ):
    for block, written in results:
      if max_tokens and tokens + written.tokens > max_tokens:
        limited = dataclasses.replace(block, token_limit=max_tokens - tokens)
        written = submit(limited).result()
      done.append((dataclasses.replace(block, documents=()), written))
      tokens += written.tokens
      bar.set_postfix(split=block.split, tokens=tokens, refresh=False)
      bar.update(written.text_bytes)
      if written.token_limit or tokens == max_tokens:
        break
  return done


def _split_manifest(
  split: str,
  settings: dict[str, Any],
  files: tuple[manifests.SourceFile, ...],
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


def _finish(folder: pathlib.Path) -> Manifest:
  """Gives every file its final name; may be repeated from any point."""
  work, final = _unfinished(folder), manifests.shard_folder(folder)
  manifest = load_manifest(work)
  final.mkdir(parents=True, exist_ok=True)
  wanted = {s.name for split in manifest.splits.values() for s in split.shards}
  for stale in final.glob(f"{manifests.NAME}-*.array_record-*"):
    if stale.name not in wanted:
      stale.unlink()
  for name, split in manifest.splits.items():
    for shard in split.shards:
      source = work / block_file(name, shard.block)
      with contextlib.suppress(FileNotFoundError):  # Moved by a killed run.
        source.replace(final / shard.name)
  manifests.write_metadata(final, manifest)
  # From here on the folder counts as prepared.
  (work / manifests.MANIFEST).replace(folder / manifests.MANIFEST)
  shutil.rmtree(work, ignore_errors=True)
  return manifest
