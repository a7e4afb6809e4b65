"""`bench data`: how fast text is prepared, and prepared rows are loaded."""

import itertools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import tokenizers

from time_jax.bench.common import report
from time_jax.bench.common.flags import Data
from time_jax.core.display import aligned_table
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.data import pipeline, prepare
from time_jax.data.records import Tally
from time_jax.data.shards import RowFormat
from time_jax.data.sources import Source, documents
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import files
from time_jax.hf.tokenizer import load_tokenizer
from time_jax.run import assembly
from time_jax.run.corpus import TRAIN
from time_jax.step import machine

BARE, PREPARE, LOADER = "bare tokenizer", "prepare", "loader"
# Characters that the bare tokenizer gets at a time, and rows of a batch.
_CHUNK, _BATCH = 1 << 20, 256


def bench_data(flags: Data) -> int:
  """Prints how fast a recipe's text is prepared and its rows are loaded.

  "Bare" is `encode_batch_fast` of the `tokenizers` package, on all cores and
  the same documents, with its results thrown away: an upper bound for
  `prepare`, more or less. The loader's seconds are those that cores worked.

  Args:
    flags: flags of the command. With little text, `prepare` looks slow: the
      start of its processes is part of its time.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there is no text, or no tokenizer.
  """
  config = flags.config
  if not config.data.train:
    raise UserError("data.train is empty; expected text to measure with.")
  report.check_writable(flags.json)
  vocab_size = assembly.teacher_config(config).vocab_size
  spec = load_tokenizer(files.resolve(config.teacher.path), vocab_size)
  texts = list(some_text(config.data.train, flags.megabytes * 10**6))
  size = sum(len(text.encode()) for text in texts)
  ends = itertools.accumulate(map(len, texts))
  groups = itertools.groupby(
    zip(texts, ends, strict=True), lambda item: item[1] // _CHUNK
  )
  chunks = [[text for text, _ in group] for _, group in groups]
  tokenizer = tokenizers.Tokenizer.from_str(spec.backend)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
  rounds: dict[str, list[float]] = {BARE: [], PREPARE: [], LOADER: []}
  results: dict[str, Any] = {}
  with tempfile.TemporaryDirectory(prefix="time_jax_bench_") as name:
    source = pathlib.Path(name) / "text.jsonl"
    lines = (atomic_file.as_json({"text": text}) + "\n" for text in texts)
    atomic_file.write_text(source, "".join(lines))
    for i in range(flags.repeats):
      rows = source.with_name(str(i))
      measured = {
        BARE: tokenize(chunks, tokenizer),
        PREPARE: prepare_rows(source, rows, spec, config.data.seq_len),
        LOADER: load(rows),
      }
      for part, (seconds, tokens) in measured.items():
        rounds[part].append(seconds)
        median = statistics.median(rounds[part])
        results[part] = {
          "seconds": median,
          "rounds": rounds[part],
          "tokens_per_second": tokens / median,
        }
      about = machine.environment({}, "float32")
      content = {**about, "text_bytes": size, "results": results}
      report.write(flags.json, "time_jax.bench.data/1", content)
  print(_as_text(results, size))
  return 0


def some_text(sources: tuple[str, ...], size: int) -> Iterator[str]:
  """Yields documents, repeated from the start, until `size` bytes are there."""
  while size > 0:
    before = size
    for text in documents([Source.parse(s) for s in sources], Tally()):
      yield text
      size -= len(text.encode())
      if size <= 0:
        return
    if size == before:
      raise UserError(f"no text in {', '.join(sources)}; expected some.")


def tokenize(
  chunks: list[list[str]], tokenizer: tokenizers.Tokenizer
) -> tuple[float, int]:
  """Returns the seconds that the bare tokenizer takes, and its tokens."""
  start = time.perf_counter()
  tokens = sum(
    sum(map(len, tokenizer.encode_batch_fast(chunk))) for chunk in chunks
  )
  return time.perf_counter() - start, tokens


def prepare_rows(
  source: pathlib.Path, folder: pathlib.Path, spec: TokenizerSpec, seq_len: int
) -> tuple[float, int]:
  """Returns the seconds that `prepare` takes, and the tokens it writes.

  Args:
    source: file of text.
    folder: where the rows go.
    spec: the tokenizer.
    seq_len: length of a row.
  """
  start = time.perf_counter()
  manifest = prepare.prepare(
    folder,
    {TRAIN: [str(source)]},
    RowFormat(spec, seq_len),
    progress=False,
  )
  return time.perf_counter() - start, manifest.splits[TRAIN].tokens


def load(folder: pathlib.Path) -> tuple[float, int]:
  """Returns one core's seconds for a shuffled epoch, and its tokens."""
  rows = pipeline.open_rows(folder, TRAIN)
  batch_size = min(_BATCH, len(rows))
  source = pipeline.BatchSource(rows, seed=0, global_batch_size=batch_size)
  source.batch_at(0)  # Opens the files.
  start, tokens = time.process_time(), 0
  for step in range(len(rows) // batch_size):
    tokens += source.batch_at(step)["tokens"].size
  return time.process_time() - start, tokens


def _as_text(results: dict[str, Any], size: int) -> str:
  bare = results[BARE]["rounds"]
  rows = [["part", "s", "tokens/s", "MB/s", "of bare"]]
  for part, result in results.items():
    # A round's parts follow each other: the machine was as fast for both.
    pairs = zip(bare, result["rounds"], strict=True)
    share = statistics.median(mine / other for mine, other in pairs)
    reads_text = part != LOADER
    rows.append(
      [
        part,
        f"{result['seconds']:.2f}",
        f"{result['tokens_per_second']:,.0f}",
        f"{size / 1e6 / result['seconds']:.2f}" if reads_text else "-",
        f"{share:.0%}" if reads_text else "-",
      ]
    )
  title = (
    f"{machine.processor()}, {os.cpu_count()} cores; {size / 1e6:.0f} MB of "
    f"text, median of {len(bare)} alternating rounds; the loader in seconds of "
    "one core, places of padding included"
  )
  return f"{title}\n{aligned_table(rows, '<>')}"
