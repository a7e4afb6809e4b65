"""The rows that a run reads: prepared text, or synthetic ones."""

import contextlib
import dataclasses
import json
import os
import socket
import sys
from collections.abc import Generator, Iterator

import filelock
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.config import warmup
from time_jax.config.distill import check_config
from time_jax.core.arrays import Batch
from time_jax.core.errors import DAMAGED_JSON, UserError, explain_unwritable
from time_jax.core.storage.paths import Path, local_path, prepare_workdir
from time_jax.data import integrity, manifest, pipeline, prepare
from time_jax.data.shards import RowFormat
from time_jax.hf import files, tokenizer
from time_jax.parallel import processes, sharding
from time_jax.run.assembly import RANDOM, teacher_config

TRAIN, VALIDATION = "train", "validation"
_REPORT_EVERY = 30.0  # seconds


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Rows to train on and to choose by.

  Attributes:
    train: rows of the training text.
    validation: rows of the held-out text; None if there is no such text.
    fingerprint: hash of the settings that the rows were made with.
    content: hash of the rows themselves.
    tokenizer: hash of the tokenizer.
  """

  train: pipeline.Rows
  validation: pipeline.Rows | None
  fingerprint: str
  content: str
  tokenizer: str


def open_corpus(config: ConfigDict, workdir: Path, vocab_size: int) -> Corpus:
  """Opens a run's rows, which are prepared first where there are none yet.

  Args:
    config: config of the run.
    workdir: folder of the run, which has the rows unless `data.folder` is set.
    vocab_size: rows of the teacher's token table.
  """
  d = config.data
  if d.synthetic_rows:
    rows = pipeline.SyntheticRows(
      d.synthetic_rows, d.seq_len, vocab_size, config.seed
    )
    return Corpus(rows, None, f"synthetic-{rows}", f"synthetic-{rows}", "none")
  prepared = prepare_corpus(config, workdir, vocab_size)
  folder = data_folder(config, workdir)
  splits = {name: pipeline.open_rows(folder, name) for name in prepared.splits}
  return Corpus(
    splits[TRAIN],
    splits.get(VALIDATION),
    prepared.fingerprint,
    prepared.content,
    prepared.tokenizer_sha256,
  )


def keep_limit(config: ConfigDict, workdir: Path) -> None:
  """Keeps the limit of tokens with which a run's text was prepared.

  A recipe may derive `data.max_tokens` from the number of steps. Text that was
  prepared for more steps has all that these read, so it is used as it is.

  Args:
    config: config of the run, whose `data.max_tokens` may change.
    workdir: folder of the run.

  Raises:
    UserError: `data.folder` is no path.
  """
  d, train = config.data, config.train
  folder = data_folder(config, workdir)
  if d.max_tokens != train.num_steps * train.global_batch_size * d.seq_len:
    return  # It was not derived from the steps.
  record = workdir / "config.json"
  before = _limit(record, "data")
  # A run that began with these steps keeps the limit of its recipe at the time,
  # even a lower one; any other text has to be enough.
  asked = {name: train[name] for name in ("num_steps", "global_batch_size")}
  if not before or not warmup.is_recorded([record], asked):
    made = _limit(folder / manifest.MANIFEST, "settings")
    planned = _limit(prepare.plan_of(folder))
    before = max(before, made, planned, d.max_tokens)
  if before != d.max_tokens:
    print(
      f"time_jax: note: text was prepared up to {before:,} tokens, the steps "
      f"read at most {d.max_tokens:,}; it is used as it is.",
      file=sys.stderr,
      flush=True,
    )
    d.max_tokens = before


def _limit(path: Path, part: str = "") -> int:
  """Returns the limit of tokens in a file of settings; 0 if there is none."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    return int((content[part] if part else content)["max_tokens"])
  except (OSError, *DAMAGED_JSON):  # Whoever needs the file says so.
    return 0


def prepare_corpus(
  config: ConfigDict, workdir: Path, vocab_size: int
) -> manifest.Manifest:
  """Tokenises a run's text into rows on disk, unless that was done before.

  Several processes may call it: on a shared disk the first one works and the
  others wait; on disks of their own each makes the same files. A teacher with
  random weights takes the rows of `data.folder` as they are.

  Args:
    config: config of the run.
    workdir: folder of the run.
    vocab_size: rows of the teacher's token table.
  """
  d = config.data
  if config.teacher.path == RANDOM:
    return _rows_without_tokenizer(config, vocab_size)
  if not d.train:
    raise UserError(
      "data.train is empty; expected text, such as "
      "--config.data.train=\"('texts/*.jsonl.gz',)\"."
    )
  folder = data_folder(config, workdir)
  spec = tokenizer.load_tokenizer(
    files.resolve(config.teacher.path), vocab_size
  )
  splits = {TRAIN: tuple(d.train)}
  if d.validation:
    splits[VALIDATION] = tuple(d.validation)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
      return prepare.prepare(
        folder,
        splits,
        RowFormat(spec, d.seq_len, d.packing),
        limits=prepare.Limits(d.max_tokens, d.max_documents, d.max_bad_records),
        shard_text_mb=d.shard_text_mb,
      )
  except OSError as error:
    raise UserError(
      f"cannot write to {folder}: {explain_unwritable(error)}."
    ) from error


def _rows_without_tokenizer(
  config: ConfigDict, vocab_size: int
) -> manifest.Manifest:
  """Returns rows in `data.folder`, for a teacher without a tokenizer."""
  folder = config.data.folder
  if not folder or not manifest.is_prepared(folder):
    raise UserError(
      "a random teacher has no tokenizer; expected --config.data.synthetic_rows"
      " above 0, or --config.data.folder with rows that `prepare` has made for "
      f"another teacher, not {folder!r}."
    )
  prepared, seq_len = manifest.load_manifest(folder), config.data.seq_len
  settings = prepared.settings
  if settings["vocab_size"] > vocab_size or settings["seq_len"] != seq_len:
    raise UserError(
      f"data.folder={folder!r} holds rows of {settings['seq_len']} tokens out "
      f"of {settings['vocab_size']:,}; expected {seq_len}, which is "
      f"data.seq_len, out of the {vocab_size:,} of this random teacher or "
      "fewer."
    )
  return prepared


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None, None, None]:
  """Lets one process at a time prepare; the others print whom they wait for.

  They wait without a limit: nobody knows how long text takes, and a process
  releases the lock however it ends.
  """
  lock = filelock.FileLock(folder / "prepare.lock")
  holder = folder / "prepare.holder"
  while not lock.is_locked:
    try:
      lock.acquire(timeout=_REPORT_EVERY)
    except filelock.Timeout:
      with contextlib.suppress(OSError):
        print(
          f"time_jax: waiting for {holder.read_text()}, which prepares text in "
          f"{folder}",
          file=sys.stderr,
          flush=True,
        )
  try:
    holder.write_text(f"{socket.gethostname()} (pid {os.getpid()})")
    yield
  finally:
    holder.unlink(missing_ok=True)
    lock.release()


def data_folder(config: ConfigDict, workdir: Path) -> Path:
  """Returns the folder of the prepared rows."""
  folder = config.data.folder
  return (local_path(folder) if folder else workdir / "data").absolute()


def evaluation_batches(
  rows: pipeline.Rows, batch_size: int, mesh: Mesh
) -> Iterator[Batch]:
  """Yields every row once, in global batches of one shape."""
  wanted = sharding.local_rows(mesh, batch_size)
  for row in pipeline.sequential_batches(rows, batch_size, wanted=wanted):
    yield sharding.global_batch(
      row["tokens"], row["segment_ids"], mesh, batch_size
    )


def prepare_command(
  config: ConfigDict, workdir: Path, verify: bool = False
) -> int:
  """Prepares a run's text and prints a summary.

  Args:
    config: config of the run.
    workdir: folder of the run.
    verify: whether every byte on disk is compared with its checksum.

  Returns:
    The exit code, 0.
  """
  check_config(config)
  vocab_size = teacher_config(config).vocab_size
  keep_limit(config, workdir)
  folder = data_folder(config, workdir)
  with contextlib.ExitStack() as stack:
    # Rows in `data.folder` are shared between runs: see `_locked`.
    if not config.data.folder and not manifest.is_prepared(folder):
      prepare_workdir(workdir)
      stack.enter_context(processes.hold_workdir(workdir))
      processes.meet()  # None works before process 0 holds the workdir.
    prepared = prepare_corpus(config, workdir, vocab_size)
  print(f"Prepared rows in {folder}")
  for name, split in prepared.splits.items():
    print(
      f"  {name}: {split.documents:,} documents, {split.tokens:,} tokens, "
      f"{split.rows:,} rows of {config.data.seq_len} "
      f"({split.packing_efficiency:.1%} full), {split.bad_records} bad records"
    )
  if verify:
    size = integrity.check_rows(folder, prepared)
    print(f"  verified: {size / 1e6:,.1f} MB are what was written")
  return 0
