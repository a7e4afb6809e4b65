"""Latency of encoders on real sentences, in all engines, in turns."""

import contextlib
import pathlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from time_jax.bench.common import report as common_report
from time_jax.bench.common.worker import Worker
from time_jax.bench.inference import (
  report as inference_report,
)
from time_jax.bench.inference import (
  sentences,
  spacy_pipeline,
)
from time_jax.bench.inference.engines import (
  ENGINES,
  GRAPHS,
  INT8,
  Engine,
  size_of,
)
from time_jax.bench.inference.sentences import Rows
from time_jax.bench.inference.spacy_pipeline import Pipeline
from time_jax.bench.inference.subjects import Subject, materialise
from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file
from time_jax.hf import files, tokenizer
from time_jax.report import results
from time_jax.step import machine

SCHEMA = "time_jax.bench.inference/1"
_TOLERANCE = 1e-4  # between engines, of the largest value above 1
_WINDOW = 5.0  # seconds that energy is counted over, at least
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
  spacy: str | None = None,
  scores: Sequence[pathlib.Path] = (),
  json: pathlib.Path | None = None,
  out: pathlib.Path | None = None,
) -> int:
  """Measures every model in every engine; prints a table a batch size.

  Args:
    models: name -> see `subjects.materialise`; the first is what the others'
      speed is compared with.
    engines: keys of `ENGINES`.
    text: a source of sentences, one a document.
    words: folder, hub id or package with the tokenizer; or a workdir.
    batch_sizes: sentences of a batch.
    batches: of each size, the same for all.
    repeats: rounds that count; one before them does not.
    spacy: a pipeline of spaCy to measure as well, or None.
    scores: workdirs of `finetune` of the same weights, to draw.
    json: file for the numbers, or None.
    out: folder for the numbers, tables and plots, or None.

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
  if out:
    out.mkdir(parents=True, exist_ok=True)
  targets = [*filter(None, [json, out and out / inference_report.NUMBERS])]
  for target in targets:
    common_report.check_writable(target)
  points = results.read(scores)[0]
  pipeline = Pipeline(spacy).about() if spacy else ""
  folder = files.resolve(words)
  spec = tokenizer.load_alone(folder)
  texts, tokens = sentences.read(text, spec)
  rows: list[dict[str, Any]] = []
  with contextlib.ExitStack() as stack:
    scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    subjects = [
      materialise(name, model, spec, scratch) for name, model in models.items()
    ]
    running = _start(engines, subjects, spacy)
    for worker, _ in running.values():
      stack.callback(worker.close)
    for size in batch_sizes:
      chosen = sentences.drawn(len(tokens), size, batches)
      some = [
        sentences.pad([tokens[i] for i in numbers], spec.pad_id)
        for numbers in chosen
      ]
      plain = [[texts[i] for i in numbers] for numbers in chosen]
      rows += _of_size(size, running, subjects, some, plain, repeats)
  content = _content(subjects, rows)
  if spacy:
    content["models"].append({"name": spacy, "fingerprint": pipeline})
  for target in targets:
    atomic_file.write_json(target, content)
  if out:
    inference_report.write(out, content, points)
  if written := " and ".join(str(path) for path in (json, out) if path):
    print(f"Written to {written}.")
  return 0


def _of_size(
  size: int,
  running: Mapping[str, tuple[Worker, list[str]]],
  subjects: Sequence[Subject],
  batches: list[Rows],
  texts: list[list[str]],
  repeats: int,
) -> list[dict[str, Any]]:
  """Measures a batch size and prints its table."""
  times, errors = _measure(running, batches, texts, repeats)
  rows = _rows(times, size, batches)
  _complete(rows, running, subjects, batches, errors)
  print(inference_report.as_text(size, rows, batches), flush=True)
  return rows


def _content(
  subjects: Sequence[Subject], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """Of the JSON file."""
  models = [
    {
      "name": s.name,
      "parameters_without_embeddings": s.parameters,
      "fingerprint": s.identity.value,
      "fingerprint_before": s.identity.before if s.identity.proves else "",
    }
    for s in subjects
  ]
  about = machine.environment({"data": 1}, "float32")
  return {"schema": SCHEMA} | about | {"models": models, "rows": rows}


def _start(
  engines: Sequence[str], subjects: Sequence[Subject], spacy: str | None
) -> dict[str, tuple[Worker, list[str]]]:
  """Engine -> its process, and the models in it."""
  running = {}
  for name in engines:
    some = [s for s in subjects if name not in GRAPHS or s.onnx]
    running[name] = Worker(Engine, name, some), [s.name for s in some]
  if spacy:
    running[spacy_pipeline.ENGINE] = Worker(Pipeline, spacy), [spacy]
  return running


def _measure(
  running: Mapping[str, tuple[Worker, list[str]]],
  batches: list[Rows],
  texts: list[list[str]],
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
    if engine == spacy_pipeline.ENGINE:
      continue
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
      what = texts if engine == spacy_pipeline.ENGINE else batches
      seconds = running[engine][0].call("seconds", model, what)
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
      "latency_s": common_report.spread(
        [s for seconds in rounds for s in seconds]
      ),
      "ci95_s": _ci95([s / len(batches) for s in sums]),
      "sentences_s": size * len(batches) / statistics.median(sums),
      "tokens_s": tokens / statistics.median(sums),
    }
    if (first, engine) in times:
      row["speed_up"] = _ratio(times[first, engine], rounds)
    others = [e for m, e in times if m == model and e != engine]
    row["others_over_this"] = {
      other: _ratio(times[model, other], rounds) for other in others
    }
    found.append(row)
  return found


def _complete(
  rows: list[dict[str, Any]],
  running: Mapping[str, tuple[Worker, list[str]]],
  subjects: Sequence[Subject],
  batches: list[Rows],
  errors: Mapping[tuple[str, str], float],
) -> None:
  """Adds to the rows of a batch size what is no time."""
  by_name = {s.name: s for s in subjects}
  count = sum(len(mask) for _, mask in batches)
  tokens = sum(int(mask.sum()) for _, mask in batches)
  for row in rows:
    model, engine = row["model"], row["engine"]
    row["error"] = errors.get((model, engine))
    row["file_bytes"] = row["energy"] = None
    if engine == spacy_pipeline.ENGINE:
      continue
    row["file_bytes"] = size_of(engine, by_name[model])
    found = running[engine][0].call("energy", model, batches, _WINDOW)
    joules = found.pop("joules", None)
    if joules is not None:
      found["joules_per_sentence"] = joules / count
      found["joules_per_token"] = joules / tokens
    if found["platform"] == "tpu":
      found["chip_seconds_per_sentence"] = found["chips"] / row["sentences_s"]
      found["chip_seconds_per_token"] = found["chips"] / row["tokens_s"]
    row["energy"] = found


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
