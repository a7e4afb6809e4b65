"""What is measured: models with each engine, and pipelines of spaCy."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.flags import RANDOM, Pipeline, PipelineEngine
from time_jax.bench.pipeline import own_pipeline, random_model, spacy_pipeline
from time_jax.bench.pipeline.gold import Gold
from time_jax.bench.pipeline.measured import Opened
from time_jax.config.finetune import EngineName
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path
from time_jax.evals.common import model_folder
from time_jax.evals.predict import engines
from time_jax.hf import fine_tuned, load

FLOAT32, INT8 = "float32", "int8"


class _Computing(NamedTuple):
  """How a model is computed, and what that adds to its name in tables."""

  engine: EngineName
  dtype: str
  ending: str


_ENGINES: dict[PipelineEngine, _Computing] = {
  "jax": _Computing("jax", FLOAT32, ""),
  "onnxruntime": _Computing("onnxruntime", FLOAT32, "/onnxruntime"),
  "onnxruntime-int8": _Computing("onnxruntime", INT8, "/int8"),
}


@dataclasses.dataclass(frozen=True)
class Subject:
  """A pipeline to measure.

  Attributes:
    name: its name in tables.
    plain_name: the name of its model, whatever computes it.
    given: what the user gave: a folder, a shape, or a pipeline of spaCy.
    engine: what computes it: jax, onnxruntime or spacy.
    dtype: of its matrices: float32 or int8. It is not called its precision,
      which is a score of `ner`.
    load: opens it in a process; see `measured.Measured`.
    source: the argument of `load`.
    scored: whether its scores mean anything.
    single: whether it works on one core, whatever it is given.
  """

  name: str
  plain_name: str
  given: str
  engine: str
  dtype: str
  load: Callable[..., Opened]
  source: Any
  scored: bool = True
  single: bool = False


def task_of(flags: Pipeline) -> str:
  """Returns the task of all models; that of a treebank, if all are random.

  Args:
    flags: flags of the command.

  Raises:
    UserError: there is no such model, or they are of different tasks.
  """
  tasks: dict[str, str] = {}  # -> the first model of it
  for _, given in map(_given, flags.models):
    if not given.startswith(RANDOM):
      description = fine_tuned.read_description(local_path(given))
      tasks.setdefault(description["task"], given)
  if len(tasks) > 1:
    listed = ", ".join(f"{given} of {task}" for task, given in tasks.items())
    raise UserError(f"models of one task expected, not {listed}.")
  return next(iter(tasks), "ud")


def check_engines(flags: Pipeline) -> None:
  """Checks that what `--engines` names is installed.

  Raises:
    UserError: onnxruntime is asked for, and is not installed.
  """
  if any(engine != "jax" for engine in flags.engines):
    engines.require_onnxruntime()


def make_subjects(
  flags: Pipeline, annotated: Gold, scratch: pathlib.Path
) -> list[Subject]:
  """Returns what is measured; random models are written first.

  Args:
    flags: flags of the command.
    annotated: the gold file.
    scratch: folder for random models.

  Raises:
    UserError: there is no such shape or tokenizer, or a config.json is damaged.
  """
  subjects: list[Subject] = []
  for number, (name, given) in enumerate(map(_given, flags.models)):
    random = given.startswith(RANDOM)
    folder = scratch / f"random-{number}" if random else local_path(given)
    if random:
      arguments = folder, given, _tokenizer(flags), annotated
      # In a process of its own, whose memory is free afterwards.
      with ChildProcess(random_model.write, *arguments):
        pass
    # A random one may be large, and is there to be compared with the first row.
    chosen = flags.engines[:1] if random else flags.engines
    for engine, dtype, ending in _able(chosen, name, folder):
      subjects.append(
        Subject(
          name=name + ending,
          plain_name=name,
          given=given,
          engine=engine,
          dtype=dtype,
          load=functools.partial(
            own_pipeline.load, engine=engine, int8=dtype == INT8
          ),
          source=folder,
          scored=not random,
        )
      )
  return subjects + list(map(_of_spacy, flags.spacy))


def _able(
  chosen: Sequence[PipelineEngine], name: str, folder: pathlib.Path
) -> list[_Computing]:
  """Returns what computes a model, and says if that is another engine."""
  _, config = load.read_config(model_folder.encoder_folder(folder))
  if chosen != ("jax",) and not engines.in_onnx(config):
    print(f"{name} is computed by JAX: onnxruntime knows no such encoder.")
    chosen = ("jax",)
  return [_ENGINES[each] for each in chosen]


def _of_spacy(name: str) -> Subject:
  return Subject(
    name=name,
    plain_name=name,
    given=name,
    engine="spacy",
    dtype=FLOAT32,
    load=spacy_pipeline.load,
    source=name,
    single=True,
  )


def _given(model: str) -> tuple[str, str]:
  """Returns name and folder, or name and random:SHAPE."""
  name, equals, given = model.partition("=")
  return name, given if equals else name


def _tokenizer(flags: Pipeline) -> str:
  """Returns where the tokenizer of random models is."""
  if flags.tokenizer:
    return flags.tokenizer
  for _, given in map(_given, flags.models):
    if not given.startswith(RANDOM):
      return str(model_folder.encoder_folder(local_path(given)))
  raise UserError(
    "all models are random, so that none has a tokenizer; expected "
    "--tokenizer=FOLDER."
  )
