"""`bench inference`: latency of encoders on real sentences, in turns."""

import contextlib
import itertools
import pathlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from time_jax.bench.common import report, rounds
from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.flags import Inference
from time_jax.bench.inference import sentences, tables
from time_jax.bench.inference.encoders import EncoderFiles, write_encoder
from time_jax.bench.inference.engines import (
  ENGINES,
  GRAPHS,
  INT8,
  SPACY,
  Engine,
  SpacyPipeline,
  file_bytes,
)
from time_jax.bench.inference.sentences import SentenceBatch
from time_jax.core.errors import RunError, UserError
from time_jax.hf import files, tokenizer
from time_jax.report import results
from time_jax.step import machine

SCHEMA = "time_jax.bench.inference/1"
# Largest difference between engines, relative to the largest value above 1.
_TOLERANCE = 1e-4
_ENERGY_SECONDS = 5.0  # Energy is measured for at least as long.
# Engine -> its process, and the names of the models in it.
Running = Mapping[str, tuple[ChildProcess, list[str]]]
# (model, engine) -> of every round, the seconds of each batch.
Times = dict[tuple[str, str], list[list[float]]]


def bench_inference(flags: Inference) -> int:
  """Measures every model in every engine; prints a table for each batch size.

  Args:
    flags: flags of the command.

  Returns:
    The exit code, 0.

  Raises:
    UserError: an engine, a model or the text is unknown.
    RunError: engines disagree by more than 1e-4; int8 only reports its error.
  """
  json, out = flags.json, flags.out
  if unknown := set(flags.engines) - set(ENGINES):
    raise UserError(
      f"--engines: {', '.join(unknown)} unknown; known: {', '.join(ENGINES)}."
    )
  if out:
    out.mkdir(parents=True, exist_ok=True)
  targets = [path for path in (json, out and out / tables.NUMBERS) if path]
  for path in targets:
    report.check_writable(path)
  scored = results.read(flags.scores)[0]
  pipelines = {}
  if flags.spacy:
    pipelines[flags.spacy] = SpacyPipeline(flags.spacy).describe()
  spec = tokenizer.load_alone(files.resolve(flags.tokenizer))
  texts = sentences.read(flags.text, spec)
  rows: list[dict[str, Any]] = []
  with contextlib.ExitStack() as stack:
    scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    encoders = {
      name: write_encoder(name, model, spec, scratch)
      for name, _, model in (model.partition("=") for model in flags.models)
    }
    running: dict[str, tuple[ChildProcess, list[str]]] = {}
    for engine in flags.engines:
      own = [e for e in encoders.values() if engine not in GRAPHS or e.onnx]
      process = stack.enter_context(ChildProcess(Engine, engine, own))
      running[engine] = process, [e.name for e in own]
    if flags.spacy:
      process = stack.enter_context(ChildProcess(SpacyPipeline, flags.spacy))
      running[SPACY] = process, [flags.spacy]
    for size in flags.batch_sizes:
      batches = sentences.draw(texts, size, flags.batches, spec.pad_id)
      errors = check_agreement(running, batches[0])
      times = time_rounds(running, batches, flags.repeats)
      new = [_speed(pair, times, batches) for pair in times]
      for row in new:
        row["error"] = errors.get((row["model"], row["engine"]))
        row |= _size_and_energy(row, running, encoders, batches)
      print(tables.as_text(new, batches), flush=True)
      rows += new
  content = _content(list(encoders.values()), pipelines, rows)
  for path in targets:
    report.write(path, SCHEMA, content)
  if out:
    tables.write(out, content, scored)
  if written := " and ".join(str(path) for path in (json, out) if path):
    print(f"Written to {written}.")
  return 0


def _pairs(running: Running) -> list[tuple[str, str]]:
  """Returns all (model, engine), model by model."""
  models = dict.fromkeys(
    name for _, names in running.values() for name in names
  )
  return [
    (model, engine)
    for model in models
    for engine, (_, names) in running.items()
    if model in names
  ]


def check_agreement(
  running: Running, batch: SentenceBatch
) -> dict[tuple[str, str], float]:
  """Compares the hidden states of every engine with those of the first one.

  Args:
    running: engines with their models.
    batch: sentences to encode.

  Returns:
    Of engines that round weights, the mean error of a vector relative to its
    length.

  Raises:
    RunError: another engine differs by more than 1e-4.
  """
  first: dict[str, np.ndarray] = {}
  errors: dict[tuple[str, str], float] = {}
  for model, engine in _pairs(running):
    if engine == SPACY:
      continue
    states = running[engine][0].call("last_state", model, batch)
    states = states[batch.mask > 0]
    expected = first.setdefault(model, states)
    if engine == INT8:
      length = np.linalg.norm(expected, axis=-1)
      error = np.linalg.norm(states - expected, axis=-1) / length
      errors[model, engine] = float(np.mean(error))
      continue
    difference = float(np.abs(states - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
      raise RunError(
        f"{model}: {engine} differs by {difference:.1e} from the first engine, "
        f"expected at most {_TOLERANCE}."
      )
  return errors


def time_rounds(
  running: Running, batches: Sequence[SentenceBatch], repeats: int
) -> Times:
  """Times all models in all engines, each round in the opposite order.

  Args:
    running: engines with their models.
    batches: what every model encodes in a round.
    repeats: number of rounds that count; one before them does not.
  """

  def measure(pair: tuple[str, str]) -> list[float]:
    model, engine = pair
    return running[engine][0].call("seconds", model, batches)

  times = rounds.in_turns(_pairs(running), 1 + repeats, measure)
  return {pair: seconds[1:] for pair, seconds in times.items()}


def _speed(
  pair: tuple[str, str], times: Times, batches: Sequence[SentenceBatch]
) -> dict[str, Any]:
  """Returns latency and throughput of a model in an engine."""
  model, engine = pair
  sums = _sums(times[pair])
  sentence_count = sum(len(batch.texts) for batch in batches)
  tokens = sum(int(batch.mask.sum()) for batch in batches)
  row: dict[str, Any] = {
    "model": model,
    "engine": engine,
    "batch_size": len(batches[0].texts),
    "latency_s": report.spread(list(itertools.chain(*times[pair]))),
    "ci95_s": _ci95([seconds / len(batches) for seconds in sums]),
    "sentences_s": sentence_count / statistics.median(sums),
    "tokens_s": tokens / statistics.median(sums),
  }
  first, _ = next(iter(times))
  if (first, engine) in times:
    row["speed_up"] = rounds.ratio(_sums(times[first, engine]), sums)
  others = [e for m, e in times if m == model and e != engine]
  row["others_over_this"] = {
    other: rounds.ratio(_sums(times[model, other]), sums) for other in others
  }
  return row


def _sums(seconds: Sequence[Sequence[float]]) -> list[float]:
  """Returns the seconds of every round, from those of its batches."""
  return [sum(of_round) for of_round in seconds]


def _size_and_energy(
  row: Mapping[str, Any],
  running: Running,
  encoders: Mapping[str, EncoderFiles],
  batches: Sequence[SentenceBatch],
) -> dict[str, Any]:
  """Returns bytes of the model's file, and energy and chip time by sentence."""
  model, engine = row["model"], row["engine"]
  if engine == SPACY:
    return {"file_bytes": None, "energy": None}
  energy = running[engine][0].call("energy", model, batches, _ENERGY_SECONDS)
  joules = energy.pop("joules", None)
  if joules is not None:
    count = sum(len(batch.texts) for batch in batches)
    energy["joules_per_sentence"] = joules / count
    tokens = sum(int(batch.mask.sum()) for batch in batches)
    energy["joules_per_token"] = joules / tokens
  if energy["platform"] == "tpu":
    chips = energy["chips"]
    energy["chip_seconds_per_sentence"] = chips / row["sentences_s"]
    energy["chip_seconds_per_token"] = chips / row["tokens_s"]
  return {"file_bytes": file_bytes(engine, encoders[model]), "energy": energy}


def _ci95(means: Sequence[float]) -> list[float] | None:
  """Returns the 95 % interval of the mean of rounds, by Student's t.

  It is None for a single round.
  """
  if len(means) < 2:
    return None
  center, error = statistics.fmean(means), stats.sem(means)
  half = stats.t.ppf(0.975, len(means) - 1) * error
  return [float(center - half), float(center + half)]


def _content(
  encoders: Sequence[EncoderFiles],
  pipelines: Mapping[str, str],
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
  """Returns what the JSON file holds."""
  models = [
    {
      "name": e.name,
      "parameters_without_embeddings": e.parameters,
      "fingerprint": e.identity.value,
      "fingerprint_before": e.identity.known_before,
    }
    for e in encoders
  ]
  models += [{"name": k, "fingerprint": v} for k, v in pipelines.items()]
  environment = machine.environment({"data": 1}, "float32")
  return environment | {"models": models, "rows": list(rows)}
