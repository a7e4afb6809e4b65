"""Speed of the data: preparing text beside its bare tokenizer, and loading."""

import itertools
import json as json_module
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers
from ml_collections import ConfigDict

from time_jax.bench.common import report
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
# Characters that the bare tokenizer is given at a time, and rows of a batch.
_CHUNK, _BATCH = 1 << 20, 256


def bench_data(
  config: ConfigDict,
  *,
  megabytes: int,
  repeats: int,
  json: pathlib.Path | None = None,
) -> int:
  """Prints how fast a recipe's text is prepared and its rows are loaded.

  "Bare" is `encode_batch_fast` of the `tokenizers` package on all cores and
  the same documents, its results thrown away: what prepare cannot beat by
  much. The loader's seconds are those that cores worked for it.

  Args:
    config: whose teacher's tokenizer, text and row length are taken.
    megabytes: of text; a shorter text is repeated. Starting the processes of
      prepare is part of its time, so that little text shows it too slow.
    repeats: alternating rounds.
    json: file for the numbers.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no text, no tokenizer.
  """
  if not config.data.train:
    raise UserError("data.train is empty; expected text to measure with.")
  if json:
    report.check_writable(json)
  vocab_size = assembly.teacher_config(config).vocab_size
  spec = load_tokenizer(files.resolve(config.teacher.path), vocab_size)
  texts = list(some_text(config.data.train, megabytes * 10**6))
  size = sum(len(text.encode()) for text in texts)
  results: dict[str, Any] = {}
  with tempfile.TemporaryDirectory(prefix="time_jax_bench_") as name:
    for rounds in measure(
      texts, spec, config.data.seq_len, repeats, pathlib.Path(name)
    ):
      results = _results(rounds)
      if json:
        about = machine.environment({}, "float32")
        content = {"schema": "time_jax.bench.data/1", **about}
        content |= {"text_bytes": size, "results": results}
        atomic_file.write_json(json, content)
  print(_as_text(results, size, repeats))
  return 0


def _results(rounds: dict[str, tuple[list[float], int]]) -> dict[str, Any]:
  return {
    part: {
      "seconds": statistics.median(found),
      "rounds": found,
      "tokens_per_second": tokens / statistics.median(found),
    }
    for part, (found, tokens) in rounds.items()
  }


def some_text(sources: tuple[str, ...], size: int) -> Iterator[str]:
  """Documents of the sources, over and over, until so many bytes are there."""
  while size > 0:
    before = size
    for text in documents([Source.parse(s) for s in sources], Tally()):
      yield text
      size -= len(text.encode())
      if size <= 0:
        return
    if size == before:
      raise UserError(f"no text in {', '.join(sources)}; expected some.")


def measure(
  texts: list[str],
  spec: TokenizerSpec,
  seq_len: int,
  repeats: int,
  folder: pathlib.Path,
) -> Iterator[dict[str, tuple[list[float], int]]]:
  """Yields part -> seconds of every round so far, and the tokens of each.

  Args:
    texts: documents.
    spec: the tokenizer.
    seq_len: places of a row.
    repeats: rounds.
    folder: for the rows; what is written stays there.
  """
  lines = "".join(json_module.dumps({"text": text}) + "\n" for text in texts)
  (folder / "text.jsonl").write_text(lines)
  tokenizer = tokenizers.Tokenizer.from_str(spec.backend)
  tokenizer.no_truncation()
  tokenizer.no_padding()
  os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
  chunks = list(_chunks(texts))
  seconds: dict[str, list[float]] = {BARE: [], PREPARE: [], LOADER: []}
  tokens = dict.fromkeys(seconds, 0)
  for i in range(repeats):
    start = time.perf_counter()
    tokens[BARE] = sum(
      sum(map(len, tokenizer.encode_batch_fast(chunk))) for chunk in chunks
    )
    seconds[BARE].append(time.perf_counter() - start)
    start = time.perf_counter()
    manifest = prepare.prepare(
      folder / str(i),
      {TRAIN: [str(folder / "text.jsonl")]},
      RowFormat(spec, seq_len),
      progress=False,
    )
    seconds[PREPARE].append(time.perf_counter() - start)
    tokens[PREPARE] = manifest.splits[TRAIN].tokens
    taken, tokens[LOADER] = load(folder / str(i))
    seconds[LOADER].append(taken)
    yield {part: (seconds[part], tokens[part]) for part in seconds}


def load(folder: pathlib.Path) -> tuple[float, int]:
  """Seconds of one core for an epoch in shuffled order, and its tokens."""
  rows = pipeline.open_rows(folder, TRAIN)
  batch_size = min(_BATCH, len(rows))
  source = pipeline.BatchSource(rows, seed=0, global_batch_size=batch_size)
  source.batch_at(0)  # Opens the files.
  start, tokens = time.process_time(), 0
  for step in range(len(rows) // batch_size):
    tokens += source.batch_at(step)["tokens"].size
  return time.process_time() - start, tokens


def _chunks(texts: list[str]) -> Iterator[list[str]]:
  ends = itertools.accumulate(map(len, texts))
  numbered = zip(texts, ends, strict=True)
  for _, group in itertools.groupby(numbered, lambda item: item[1] // _CHUNK):
    yield [text for text, _ in group]


def _as_text(results: dict[str, Any], size: int, repeats: int) -> str:
  bare, rows = results[BARE]["rounds"], []
  for part, found in results.items():
    told = part in (BARE, PREPARE)
    rows.append(
      [
        part,
        f"{found['seconds']:.2f}",
        f"{found['tokens_per_second']:,.0f}",
        f"{size / 1e6 / found['seconds']:.2f}" if told else "-",
        _ratio(bare, found["rounds"]) if told else "-",
      ]
    )
  title = (
    f"{machine.processor()}, {os.cpu_count()} cores; {size / 1e6:.0f} MB of "
    f"text, median of {repeats} alternating rounds; the loader in seconds of "
    "one core, places of padding included"
  )
  header = ["part", "s", "tokens/s", "MB/s", "of bare"]
  return f"{title}\n{report.table(header, rows)}"


def _ratio(bare: Sequence[float], found: Sequence[float]) -> str:
  """The speed to the bare one's, the median over rounds.

  A round is the two in a row: the machine was as fast for both.
  """
  pairs = zip(bare, found, strict=True)
  return f"{statistics.median(mine / other for mine, other in pairs):.0%}"
