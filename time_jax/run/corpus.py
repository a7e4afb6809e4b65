"""The rows that a run reads: prepared text, or synthetic ones."""

import contextlib
import dataclasses
import os
import socket
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence

import filelock
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.config import warmup
from time_jax.config.distill import check_config
from time_jax.config.students import effective
from time_jax.core.arrays import Batch
from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.core.notes import say
from time_jax.core.storage.atomic_file import read_json
from time_jax.core.storage.paths import Path, local_path, prepare_workdir
from time_jax.data import integrity, manifest, pipeline, prepare
from time_jax.data.shards import RowFormat
from time_jax.hf import files, tokenizer
from time_jax.parallel import processes, sharding
from time_jax.run.assembly import RANDOM, check_students

TRAIN, VALIDATION = "train", "validation"
_REPORT_EVERY = 30.0  # seconds


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Rows to train on, and rows to choose a checkpoint by.

  Attributes:
    train: rows of the training text.
    validation: rows of the held-out text; None if there is no such text.
    fingerprint: SHA-256 of the settings that the rows were made with.
    content: SHA-256 of the rows themselves.
    tokenizer: SHA-256 of the tokenizer.
  """

  train: pipeline.Rows
  validation: pipeline.Rows | None
  fingerprint: str
  content: str
  tokenizer: str


def open_corpus(config: ConfigDict, workdir: Path, vocab_size: int) -> Corpus:
  """Opens the rows of a run, after preparing them if there are none yet.

  Args:
    config: config of the run.
    workdir: folder of the run; its rows are in there unless `data.folder` is
      set.
    vocab_size: number of rows of the teacher's token table.
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
  """Raises `data.max_tokens` to the limit that a run's text was prepared with.

  A recipe may derive `data.max_tokens` from the number of steps. Text that was
  prepared for more steps contains all that fewer steps read, so it is used as
  it is instead of being refused for its other limit.

  Args:
    config: config of the run; its `data.max_tokens` may be changed.
    workdir: folder of the run.

  Raises:
    UserError: `data.folder` is not a path of this machine.
  """
  d, train = config.data, config.train
  folder = data_folder(config, workdir)
  if d.max_tokens != train.num_steps * train.global_batch_size * d.seq_len:
    return  # The limit was not derived from the steps.
  record = workdir / "config.json"
  before = _limit(record, "data")
  # A run that was begun with this number of steps keeps the limit that its
  # recipe had then, even a lower one. Text of any other run has to be enough.
  asked = {name: train[name] for name in ("num_steps", "global_batch_size")}
  if not before or not warmup.is_recorded([record], asked):
    made = _limit(folder / manifest.MANIFEST, "settings")
    planned = _limit(prepare.plan_of(folder))
    before = max(before, made, planned, d.max_tokens)
  if before != d.max_tokens:
    say(
      f"note: text was prepared up to {before:,} tokens, the steps read at "
      f"most {d.max_tokens:,}; it is used as it is."
    )
    d.max_tokens = before


def _limit(path: Path, part: str = "") -> int:
  """Returns the limit of tokens that a JSON file of settings states.

  Args:
    path: the file. One that is missing or damaged counts as 0: it is reported
      where its content is needed.
    part: name of the object in it that has the settings; empty: the outermost.
  """
  try:
    content = read_json(path)
    return int((content[part] if part else content)["max_tokens"])
  except (OSError, *DAMAGED_JSON):
    return 0


def prepare_corpus(
  config: ConfigDict, workdir: Path, vocab_size: int
) -> manifest.Manifest:
  """Tokenises a run's text into rows on disk, unless that was done before.

  All processes of a run may call it. On a shared disk the first one does the
  work while the others wait; on disks of their own each makes the same files.
  A teacher with random weights has no tokenizer, so the rows in `data.folder`
  are taken as they are.

  Args:
    config: config of the run.
    workdir: folder of the run.
    vocab_size: number of rows of the teacher's token table.

  Returns:
    The manifest of the rows.

  Raises:
    UserError: no text is named, it cannot be read, or the folder cannot be
      written to or holds rows that were made with other settings.
  """
  if config.teacher.path == RANDOM:
    return _rows_without_tokenizer(config, vocab_size)
  folder = data_folder(config, workdir)
  splits = {TRAIN: tuple(config.data.train)}
  if config.data.validation:
    splits[VALIDATION] = tuple(config.data.validation)
  _check_named(config)
  with prepare.explained_errors(folder), _locked(folder):
    return _prepare(config, folder, splits, vocab_size)


def first_rows(
  config: ConfigDict, workdir: Path, vocab_size: int, count: int
) -> pipeline.Rows:
  """Returns the first rows of a run's training text.

  Text that is not prepared is read only as far as these rows take it, and
  nothing of it is kept: the run prepares its text itself.

  Args:
    config: config of the run.
    workdir: folder of the run.
    vocab_size: number of rows of the teacher's token table.
    count: how many rows are needed.

  Returns:
    So many rows, more, or all that there are.

  Raises:
    UserError: as `prepare_corpus` does.
  """
  d = config.data
  known = d.synthetic_rows or config.teacher.path == RANDOM
  if known or manifest.is_prepared(data_folder(config, workdir)):
    return open_corpus(config, workdir, vocab_size).train
  _check_named(config)
  with tempfile.TemporaryDirectory(prefix="time_jax_rows_") as name:
    folder, splits = local_path(name), {TRAIN: tuple(d.train)}
    # The first block is most often enough; this process is there already.
    _prepare(config, folder, splits, vocab_size, count, num_workers=1)
    rows = pipeline.open_rows(folder, TRAIN)
    return pipeline.HeldRows(rows.__getitems__(range(min(count, len(rows)))))


def _check_named(config: ConfigDict) -> None:
  """Raises UserError where no text is named."""
  if not config.data.train:
    raise UserError(
      "data.train is empty; expected text, such as "
      "--config.data.train=\"('texts/*.jsonl.gz',)\"."
    )


def _prepare(
  config: ConfigDict,
  folder: Path,
  splits: Mapping[str, Sequence[str]],
  vocab_size: int,
  enough_rows: int = 0,
  num_workers: int | None = None,
) -> manifest.Manifest:
  """Prepares text by the settings of a run, see `prepare.prepare`."""
  d = config.data
  spec = tokenizer.load_tokenizer(
    files.resolve(config.teacher.path), vocab_size
  )
  return prepare.prepare(
    folder,
    splits,
    RowFormat(spec, d.seq_len, d.packing),
    limits=prepare.Limits(
      d.max_tokens, d.max_documents, d.max_bad_records, enough_rows
    ),
    shard_text_mb=d.shard_text_mb,
    num_workers=num_workers,
  )


def _rows_without_tokenizer(
  config: ConfigDict, vocab_size: int
) -> manifest.Manifest:
  """Returns the manifest of the rows in `data.folder`, made by another run."""
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
  """Lets one process at a time prepare the rows in a folder.

  The others say which process they wait for, again and again. They wait without
  a limit: nobody knows how long the text takes, and the system releases the
  lock of a process however it ends.

  Args:
    folder: the folder, which is made if it is missing.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(folder / "prepare.lock")
  holder = folder / "prepare.holder"
  while not lock.is_locked:
    try:
      lock.acquire(timeout=_REPORT_EVERY)
    except filelock.Timeout:
      with contextlib.suppress(OSError):
        say(
          f"waiting for {holder.read_text()}, which prepares text in {folder}"
        )
  try:
    holder.write_text(f"{socket.gethostname()} (pid {os.getpid()})")
    yield
  finally:
    holder.unlink(missing_ok=True)
    lock.release()


def data_folder(config: ConfigDict, workdir: Path) -> Path:
  """Returns the folder of a run's prepared rows, as an absolute path.

  Args:
    config: config of the run.
    workdir: folder of the run, or of one student of several.

  Raises:
    UserError: `data.folder` is not a path of this machine; or see
      `layout.checkpoints_of`.
  """
  folder = config.data.folder
  place = local_path(folder) if folder else layout.data_folder(workdir)
  return place.absolute()


def evaluation_batches(
  rows: pipeline.Rows, batch_size: int, mesh: Mesh
) -> Iterator[Batch]:
  """Yields every row once, in order, in global batches of one shape.

  Args:
    rows: the rows of all processes.
    batch_size: rows of a global batch; the last one is filled up with padding.
    mesh: devices that the batches are put on.
  """
  wanted = sharding.local_rows(mesh, batch_size)
  for row in pipeline.sequential_batches(rows, batch_size, wanted=wanted):
    yield sharding.global_batch(
      row["tokens"], row["segment_ids"], mesh, batch_size
    )


def prepare_command(
  config: ConfigDict, workdir: Path, verify: bool = False
) -> int:
  """Prepares the text of a run and prints a summary of its rows.

  Args:
    config: config of the run.
    workdir: folder of the run.
    verify: whether to compare all bytes on disk with their checksums.

  Returns:
    The exit code, 0.

  Raises:
    UserError: see `prepare_corpus`; with `verify`, also damaged rows.
  """
  check_config(config)
  vocab_size = check_students(effective(config)).vocab_size
  keep_limit(config, workdir)
  folder = data_folder(config, workdir)
  with contextlib.ExitStack() as stack:
    # Rows in `data.folder` may be those of several runs: see `_locked`.
    if not config.data.folder and not manifest.is_prepared(folder):
      prepare_workdir(workdir)
      stack.enter_context(processes.hold_workdir(workdir))
      processes.meet()  # Wait until process 0 holds the workdir.
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
