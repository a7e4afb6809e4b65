"""`bench pipeline`: from words to annotations, in turns, on some cores."""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from time_jax.bench.common import report, rounds
from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.flags import RANDOM, Pipeline
from time_jax.bench.pipeline import (
  cores,
  gold,
  own_pipeline,
  random_model,
  rows,
  spacy_pipeline,
  tables,
)
from time_jax.bench.pipeline.gold import Gold
from time_jax.bench.pipeline.measured import Measured
from time_jax.bench.pipeline.rows import Sample
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path
from time_jax.evals.common import model_folder
from time_jax.step import machine

SCHEMA = "time_jax.bench.pipeline/1"
_ENERGY_SECONDS = 5.0  # Energy is measured for at least as long.
# Where a process finds the programs that earlier ones have compiled.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
# Several processes at once share the memory of a GPU.
_SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclasses.dataclass(frozen=True)
class Subject:
  """A pipeline to measure.

  Attributes:
    name: its name in tables.
    given: what the user gave: a folder, a shape, or a pipeline of spaCy.
    load: opens it in a process; see `measured.Measured`.
    source: the argument of `load`.
    scored: whether its scores mean anything.
    single: whether it works on one core, whatever it is given.
  """

  name: str
  given: str
  load: Callable[..., Any]
  source: Any
  scored: bool = True
  single: bool = False


def bench_pipeline(flags: Pipeline) -> int:
  """Measures and scores all models; prints a table for each number of cores.

  Args:
    flags: flags of the command.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a model, a pipeline of spaCy or the file is unknown, or they are
      of different tasks.
  """
  json, out = flags.json, flags.out
  if out:
    out.mkdir(parents=True, exist_ok=True)
  targets = [path for path in (json, out and out / tables.NUMBERS) if path]
  for path in targets:
    report.check_writable(path)
  chosen = {count: cores.choose(count) for count in flags.cores}
  annotated = gold.read(flags.gold, _task(flags))
  if flags.spacy and annotated.task != "ud":
    raise UserError(
      f"--spacy={','.join(flags.spacy)} is scored on treebanks alone; expected "
      f"models of ud, not of {annotated.task}."
    )
  sample = _draw(annotated, flags)
  found: list[dict[str, Any]] = []
  models: dict[str, dict[str, Any]] = {}
  with tempfile.TemporaryDirectory() as scratch:
    subjects = _subjects(flags, annotated, pathlib.Path(scratch))
    for number, (count, own) in enumerate(chosen.items()):
      some = [s for s in subjects if not s.single or number == 0]
      with contextlib.ExitStack() as stack:
        running = {}
        for subject in some:
          process, start = _start(subject, sample, own, pathlib.Path(scratch))
          running[subject.name] = stack.enter_context(process), start
          if subject.name not in models:
            models[subject.name] = _model(subject, process, annotated)
        new = _measure(running, sample, flags.repeats)
      for row in new:
        single = any(s.single for s in some if s.name == row["model"])
        row["cores"] = 1 if single else count
      print(tables.speeds(new, sample), flush=True)
      found += new
  content = machine.environment({"data": 1}, "float32") | {
    "task": annotated.task,
    "gold": {"path": str(flags.gold), **sample.counts},
    "models": list(models.values()),
    "rows": found,
  }
  print(tables.scores(content))
  for path in targets:
    report.write(path, SCHEMA, content)
  if out:
    tables.write(out, content, annotated.drawn)
  if written := " and ".join(str(path) for path in (json, out) if path):
    print(f"Written to {written}.")
  return 0


def _given(model: str) -> tuple[str, str]:
  """Returns name and folder, or name and random:SHAPE."""
  name, equals, given = model.partition("=")
  return name, given if equals else name


def _task(flags: Pipeline) -> str:
  """Returns the task of all models; that of a treebank, if all are random."""
  tasks: dict[str, str] = {}  # -> the first model of it
  for _, given in map(_given, flags.models):
    if not given.startswith(RANDOM):
      description = model_folder.read_description(local_path(given))
      tasks.setdefault(description["task"], given)
  if len(tasks) > 1:
    listed = ", ".join(f"{given} of {task}" for task, given in tasks.items())
    raise UserError(f"models of one task expected, not {listed}.")
  return next(iter(tasks), "ud")


def _draw(annotated: Gold, flags: Pipeline) -> Sample:
  """Returns what is measured with, the same whenever it is called."""
  items = annotated.items[: flags.sentences]
  random = np.random.default_rng(0)
  batches = {
    size: random.integers(len(items), size=(flags.batches, size)).tolist()
    for size in flags.batch_sizes
  }
  return Sample(items, batches)


def _subjects(
  flags: Pipeline, annotated: Gold, scratch: pathlib.Path
) -> list[Subject]:
  """Returns what is measured; random models are written first."""
  subjects = []
  for number, (name, given) in enumerate(map(_given, flags.models)):
    scored = not given.startswith(RANDOM)
    folder = local_path(given) if scored else scratch / f"random-{number}"
    if not scored:
      arguments = folder, given, _tokenizer(flags), annotated
      # In a process of its own, whose memory is free afterwards.
      with ChildProcess(random_model.write, *arguments):
        pass
    subjects.append(
      Subject(name, given, own_pipeline.load, folder, scored=scored)
    )
  for name in flags.spacy:
    subjects.append(Subject(name, name, spacy_pipeline.load, name, single=True))
  return subjects


def _tokenizer(flags: Pipeline) -> str:
  """Returns where the tokenizer of random models is."""
  if flags.tokenizer:
    return flags.tokenizer
  for _, given in map(_given, flags.models):
    if not given.startswith(RANDOM):
      return str(local_path(given) / "encoder")
  raise UserError(
    "all models are random, so that none has a tokenizer; expected "
    "--tokenizer=FOLDER."
  )


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


def _model(
  subject: Subject, process: ChildProcess, annotated: Gold
) -> dict[str, Any]:
  """Returns what a pipeline is, and its scores on the whole file."""
  about = dict(process.call("about"))
  comparable = about.pop("metrics", None)
  scores = None
  if subject.scored:
    scores = annotated.score(process.call("annotated", annotated.items))
    scores = {
      name: score
      for name, score in scores.items()
      if comparable is None or name in comparable
    }
  return {
    "name": subject.name,
    "given": subject.given,
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
