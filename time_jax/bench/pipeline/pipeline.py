"""`bench pipeline`: from words to annotations, in turns, on some cores."""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from time_jax.bench.common import report, rounds
from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.flags import Pipeline
from time_jax.bench.pipeline import (
  cores,
  gold,
  int8_cost,
  rows,
  subjects,
  tables,
)
from time_jax.bench.pipeline.gold import Gold
from time_jax.bench.pipeline.measured import Measured
from time_jax.bench.pipeline.rows import Sample
from time_jax.bench.pipeline.subjects import Subject
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.step import machine

SCHEMA = "time_jax.bench.pipeline/1"
_ENERGY_SECONDS = 5.0  # Energy is measured for at least as long.
# Where a process finds the programs that earlier ones have compiled.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
# Several processes at once share the memory of a GPU.
_SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def bench_pipeline(flags: Pipeline) -> int:
  """Measures and scores all models; prints speeds, then scores.

  Args:
    flags: flags of the command.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a model, a pipeline of spaCy or the file is unknown, they are of
      different tasks, or an engine is not installed.
  """
  json, out = flags.json, flags.out
  if out:
    out.mkdir(parents=True, exist_ok=True)
  targets = [path for path in (json, out and out / tables.NUMBERS) if path]
  for path in targets:
    report.check_writable(path)
  subjects.check_engines(flags)
  chosen = {count: cores.choose(count) for count in flags.cores}
  annotated = gold.read(flags.gold, subjects.task_of(flags))
  if flags.spacy and annotated.task != "ud":
    raise UserError(
      f"--spacy={','.join(flags.spacy)} is scored on treebanks alone; expected "
      f"models of ud, not of {annotated.task}."
    )
  sample = _draw(annotated, flags)
  found: list[dict[str, Any]] = []
  models: dict[str, dict[str, Any]] = {}
  with tempfile.TemporaryDirectory() as scratch:
    measured = subjects.make_subjects(flags, annotated, pathlib.Path(scratch))
    places = _places(measured, annotated, flags)
    for number, (count, own) in enumerate(chosen.items()):
      some = [s for s in measured if not s.single or number == 0]
      with contextlib.ExitStack() as stack:
        running = {}
        for subject in some:
          process, start = _start(subject, sample, own, pathlib.Path(scratch))
          running[subject.name] = stack.enter_context(process), start
          if subject.name not in models:
            place = places.get(subject.name)
            models[subject.name] = _model(subject, process, annotated, place)
        new = _measure(running, sample, flags.repeats)
      for row, subject in zip(new, some, strict=True):
        row["cores"] = 1 if subject.single else count
      print(tables.speeds(new, sample), flush=True)
      found += new
  for model in models.values():
    model["against_float32"] = int8_cost.points(model, [*models.values()])
  content = machine.environment({"data": 1}, "float32") | {
    "task": annotated.task,
    "gold": {"path": str(flags.gold), **sample.counts},
    "models": list(models.values()),
    "rows": found,
  }
  print(tables.scores(content, annotated))
  for path in targets:
    report.write(path, SCHEMA, content)
  if out:
    tables.write(out, content, annotated.drawn)
  if written := " and ".join(str(path) for path in (json, out) if path):
    print(f"Written to {written}.")
  return 0


def _draw(annotated: Gold, flags: Pipeline) -> Sample:
  """Returns what is measured with, the same whenever it is called."""
  items = annotated.items[: flags.sentences]
  random = np.random.default_rng(0)
  batches = {
    size: random.integers(len(items), size=(flags.batches, size)).tolist()
    for size in flags.batch_sizes
  }
  return Sample(items, batches)


def _start(
  subject: Subject,
  sample: Sample,
  own: Sequence[int],
  scratch: pathlib.Path,
) -> tuple[ChildProcess, dict[str, float]]:
  """Starts a process twice: with nothing compiled before, and once more.

  Args:
    subject: what lives in it.
    sample: what it annotates.
    own: its cores.
    scratch: folder for what is compiled.

  Returns:
    The second process, and the seconds from start to first answer: "cold" of
    the first, and "warm".
  """
  cache = tempfile.mkdtemp(dir=scratch)
  process, seconds = None, {}
  for name in ("cold", "warm"):
    if process:
      process.close()
    begin = time.perf_counter()
    process = ChildProcess(
      Measured,
      subject.load,
      subject.source,
      sample.items,
      sample.batches,
      environment={_CACHE: cache, **_SHARED_GPU},
      cores=own[:1] if subject.single else own,
    )
    process.call("first")
    seconds[name] = time.perf_counter() - begin
  assert process
  return process, seconds


def _places(
  measured: Sequence[Subject], annotated: Gold, flags: Pipeline
) -> dict[str, pathlib.Path]:
  """Returns where the annotations of each pipeline are written, by name."""
  if not flags.out:
    return {}
  places = {
    subject.name: flags.out
    / (subject.name.replace("/", "-").lstrip("-") + annotated.ending)
    for subject in measured
    if subject.scored
  }
  if len({*places.values()}) < len(places) or any(
    place.resolve() == flags.gold.resolve() for place in places.values()
  ):
    raise UserError(
      f"--out={flags.out}: annotations would be written over each other, or "
      f"over {flags.gold}: {', '.join(map(str, places.values()))}. Expected "
      "another folder, or other names of models."
    )
  return places


def _model(
  subject: Subject,
  process: ChildProcess,
  annotated: Gold,
  place: pathlib.Path | None,
) -> dict[str, Any]:
  """Returns what a pipeline is, and its scores on the whole file.

  Args:
    subject: the pipeline.
    process: it.
    annotated: the file.
    place: file for the annotations, which `score` reads; None: none.
  """
  about = dict(process.call("about"))
  comparable = about.pop("metrics", None)
  scores = None
  if subject.scored:
    predicted = process.call("annotated", annotated.items)
    if place:
      atomic_file.write_text(place, annotated.to_text(predicted))
    scores = annotated.score(predicted)
    scores = {
      name: score
      for name, score in scores.items()
      if comparable is None or name in comparable
    }
  return {
    "name": subject.name,
    "plain_name": subject.plain_name,
    "given": subject.given,
    "engine": subject.engine,
    "dtype": subject.dtype,
    **about,
    "scores": scores,
  }


def _measure(
  running: Mapping[str, tuple[ChildProcess, Mapping[str, float]]],
  sample: Sample,
  repeats: int,
) -> list[dict[str, Any]]:
  """Measures all processes in turns; returns a row for each."""
  peaks = {k: process.call("warm_up") for k, (process, _) in running.items()}
  times = rounds.in_turns(
    [*running], repeats, lambda name: running[name][0].call("seconds")
  )
  found = []
  for name, (process, start) in running.items():
    row = rows.speed(name, times, sample)
    row |= {"first_answer_s": start, "peak_bytes": peaks[name]}
    energy = process.call("energy", _ENERGY_SECONDS)
    found.append(row | {"energy": rows.energy_of_each(energy, sample)})
  return found
