"""Latency of encoders on real sentences, in all engines, in turns."""

import pathlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from time_jax import machine
from time_jax.bench import report
from time_jax.bench.engines import (
  ENGINES,
  GRAPHS,
  INT8,
  Engine,
  Rows,
  size_of,
)
from time_jax.bench.subjects import Subject, materialise
from time_jax.bench.worker import Worker
from time_jax.data import sources
from time_jax.data.records import Tally
from time_jax.data.tokenizing import TokenizerSpec, WindowEncoder
from time_jax.errors import RunError, UserError
from time_jax.hf import files, tokenizer

SCHEMA = "time_jax.bench.inference/1"
_TOLERANCE = 1e-4  # between engines, of the largest value above 1
_STEP = 8  # Lengths are rounded up to its multiples: few shapes to compile.
_LONGEST = 512
Times = dict[tuple[str, str], list[list[float]]]  # (model, engine) -> rounds


def bench_inference(
  models: Mapping[str, str],
  *,
  engines: Sequence[str],
  text: str,
  words: str,
  batch_sizes: Sequence[int],
  batches: int,
  repeats: int,
  json: pathlib.Path | None,
) -> int:
  """Measures every model in every engine; prints a table a batch size.

  Args:
    models: name -> see `subjects.materialise`; the first is what the others'
      speed is compared with.
    engines: keys of `ENGINES`.
    text: a source of sentences, one a document.
    words: folder, hub id or package with the tokenizer.
    batch_sizes: sentences of a batch.
    batches: of each size, the same for all.
    repeats: rounds that count; one before them does not.
    json: file for the numbers, or None.

  Returns:
    The exit code, 0.

  Raises:
    UserError: an unknown engine, model or text.
    RunError: engines disagree by more than 1e-4; int8 says by how much.
  """
  if unknown := set(engines) - set(ENGINES):
    raise UserError(
      f"--engines: {', '.join(unknown)} unknown; known: {', '.join(ENGINES)}."
    )
  if json:
    report.check_writable(json)
  folder = files.resolve(words)
  size = files.read_json(folder / "config.json")["vocab_size"]
  spec = tokenizer.load_tokenizer(folder, size)
  sentences = _sentences(text, spec)
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as scratch:
    subjects = [
      materialise(name, model, spec, pathlib.Path(scratch))
      for name, model in models.items()
    ]
    by_name = {s.name: s for s in subjects}
    running = _start(engines, subjects)
    try:
      for size in batch_sizes:
        some = real_batches(sentences, size, batches, spec.pad_id)
        times, errors = _measure(running, some, repeats)
        found = _rows(times, size, some)
        for row in found:
          model, engine = row["model"], row["engine"]
          row["file_bytes"] = size_of(engine, by_name[model])
          row["error"] = errors.get((model, engine))
        print(as_text(size, found, some), flush=True)
        rows += found
    finally:
      for worker, _ in running.values():
        worker.close()
  if json:
    about = machine.environment({"data": 1}, "float32")
    known = [
      {
        "name": s.name,
        "parameters_without_embeddings": s.parameters,
        "fingerprint": s.fingerprint,
      }
      for s in subjects
    ]
    report.write_json(
      json, {"schema": SCHEMA} | about | {"models": known, "rows": rows}
    )
    print(f"Written to {json}.")
  return 0


def _sentences(text: str, spec: TokenizerSpec) -> list[np.ndarray]:
  source = sources.Source.parse(text)
  windows = WindowEncoder(spec, _LONGEST).first_windows(
    sources.documents([source], Tally())
  )
  return [ids for some in windows for ids in some]


def real_batches(
  sentences: Sequence[np.ndarray], size: int, count: int, pad_id: int
) -> list[Rows]:
  """Sentences drawn at random, padded to the longest of their batch.

  Args:
    sentences: token ids of each.
    size: rows of a batch.
    count: of batches.
    pad_id: for free places.

  Returns:
    (tokens, mask) of each, of lengths that are multiples of 8.
  """
  if not sentences:
    raise UserError("--text holds no sentence.")
  random, found = np.random.default_rng(0), []
  for _ in range(count):
    some = [sentences[i] for i in random.integers(len(sentences), size=size)]
    length = -(-max(map(len, some)) // _STEP) * _STEP
    tokens = np.full((size, length), pad_id, np.int64)
    mask = np.zeros((size, length), np.int64)
    for row, ids in enumerate(some):
      tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    found.append((tokens, mask))
  return found


def _start(
  engines: Sequence[str], subjects: Sequence[Subject]
) -> dict[str, tuple[Worker, list[str]]]:
  """Engine -> its process, and the models in it."""
  running = {}
  for name in engines:
    some = [s for s in subjects if name not in GRAPHS or s.onnx]
    running[name] = Worker(Engine, name, some), [s.name for s in some]
  return running


def _measure(
  running: Mapping[str, tuple[Worker, list[str]]],
  batches: list[Rows],
  repeats: int,
) -> tuple[Times, dict[tuple[str, str], float]]:
  """Rounds of all, each in the opposite order of the one before.

  Returns:
    Their seconds, and of engines that round weights the mean error of a
    vector, in parts of its length.
  """
  models = dict.fromkeys(m for _, some in running.values() for m in some)
  which = [
    (model, engine)
    for model in models
    for engine, (_, some) in running.items()
    if model in some
  ]
  first: dict[str, np.ndarray] = {}
  errors: dict[tuple[str, str], float] = {}
  tokens, mask = batches[0]
  for model, engine in which:
    state = running[engine][0].call("last_state", model, (tokens, mask))
    state = state[mask > 0]
    expected = first.setdefault(model, state)
    if engine == INT8:
      off = np.linalg.norm(state - expected, axis=-1)
      errors[model, engine] = float(
        np.mean(off / np.linalg.norm(expected, axis=-1))
      )
      continue
    difference = float(np.abs(state - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
      raise RunError(
        f"{model}: {engine} differs by {difference:.1e} from the first engine, "
        f"expected at most {_TOLERANCE}."
      )
  times: Times = {pair: [] for pair in which}
  for i in range(1 + repeats):
    for model, engine in which[:: -1 if i % 2 else 1]:
      seconds = running[engine][0].call("seconds", model, batches)
      times[model, engine].append(seconds)
  return {pair: rounds[1:] for pair, rounds in times.items()}, errors


def _rows(times: Times, size: int, batches: list[Rows]) -> list[dict[str, Any]]:
  tokens = sum(int(mask.sum()) for _, mask in batches)
  first = next(iter(times))[0]
  found = []
  for (model, engine), rounds in times.items():
    sums = [sum(seconds) for seconds in rounds]
    row = {
      "model": model,
      "engine": engine,
      "batch_size": size,
      "latency_s": report.spread([s for seconds in rounds for s in seconds]),
      "ci95_s": _ci95([s / len(batches) for s in sums]),
      "sentences_s": size * len(batches) / statistics.median(sums),
      "tokens_s": tokens / statistics.median(sums),
      "energy": None,  # not measured
    }
    if (first, engine) in times:
      row["speed_up"] = _ratio(times[first, engine], rounds)
    others = [e for m, e in times if m == model and e != engine]
    row["others_over_this"] = {
      other: _ratio(times[model, other], rounds) for other in others
    }
    found.append(row)
  return found


def _ratio(above: list[list[float]], below: list[list[float]]) -> float:
  """Median over the rounds of the ratio of their seconds."""
  return statistics.median(
    sum(a) / sum(b) for a, b in zip(above, below, strict=True)
  )


def _ci95(means: Sequence[float]) -> list[float] | None:
  """Of the mean of rounds, by Student's t; None for one round."""
  if len(means) < 2:
    return None
  error = statistics.stdev(means) / len(means) ** 0.5
  half = float(stats.t.ppf(0.975, len(means) - 1)) * error
  return [statistics.fmean(means) - half, statistics.fmean(means) + half]


def as_text(
  size: int, rows: Sequence[Mapping[str, Any]], batches: Sequence[Rows]
) -> str:
  """The table of one batch size."""
  lengths = [mask.shape[1] for _, mask in batches]
  real = sum(mask.sum() for _, mask in batches) / sum(
    mask.size for _, mask in batches
  )
  title = (
    f"batch {size}: {len(batches)} batches of {min(lengths)} - {max(lengths)} "
    f"places, {real:.0%} of them tokens; energy not measured"
  )
  cells = []
  for row in rows:
    latency = row["latency_s"]
    low, high = row["ci95_s"] or (float("nan"),) * 2
    cells.append(
      (
        f"{row['model']}, {row['engine']}",
        f"{row['file_bytes'] / 1e6:,.1f}",
        *(f"{latency[p] * 1e3:,.2f}" for p in ("p50", "p90", "p99")),
        f"{low * 1e3:,.2f} - {high * 1e3:,.2f}",
        f"{row['sentences_s']:,.1f}",
        f"{row['tokens_s']:,.0f}",
        f"{row.get('speed_up', float('nan')):.2f}x",
      )
    )
  head = (
    "model, engine",
    "MB",
    "p50 ms",
    "p90",
    "p99",
    "95 % of mean",
    "sentences/s",
    "tokens/s",
    "to first",
  )
  rounded = [
    f"{row['model']}, {row['engine']}: a vector is {row['error']:.1%} of its "
    "length off, on average\n"
    for row in rows
    if row["error"] is not None
  ]
  return f"{title}\n{report.table(head, cells)}\n{''.join(rounded)}"
