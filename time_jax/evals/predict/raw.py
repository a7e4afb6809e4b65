"""Raw text as the input of `predict`: a model splits it into sentences."""

import contextlib
import pathlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from time_jax.config.finetune import EngineName
from time_jax.core.errors import UserError
from time_jax.evals.common.task import Beat
from time_jax.evals.predict.formats import SPLIT
from time_jax.evals.predict.pipeline import Pipeline, open_pipeline
from time_jax.evals.predict.streams import NAME
from time_jax.evals.split import raw_text
from time_jax.evals.split.passage import Passage
from time_jax.evals.ud.conllu import Sentence

Arriving = Generator[tuple[float, list[Any]], None, None]


def splitter_of(
  pipeline: Pipeline,
  split: pathlib.Path | None,
  engine: EngineName = "auto",
  int8: bool = False,
) -> Pipeline | None:
  """Returns what splits the input of a model; None: it is no raw text.

  Args:
    pipeline: the model. One of `split` is its own splitter.
    split: folder of a model of `split`, for a model of another task.
    engine: see `open_pipeline`.
    int8: see `open_pipeline`.

  Raises:
    UserError: the model reads no sentences, or splits raw text itself; or the
      folder has no model of `split`.
  """
  if not split:
    return pipeline if pipeline.task == SPLIT else None
  if pipeline.task == SPLIT:
    raise UserError(
      "--split is given with a model of task 'split', which splits raw text "
      "itself; expected one of ud or ner: leave --split out."
    )
  if pipeline.format.of_sentence is None:
    raise UserError(
      f"--split is given with a model of task {pipeline.task!r}, which does "
      "not read sentences; expected one of ud or ner: leave --split out."
    )
  splitter = open_pipeline(split, engine, int8)
  if splitter.task != SPLIT:
    raise UserError(
      f"--split is a model of task {splitter.task!r}; expected one of "
      "`finetune split`."
    )
  return splitter


def split(
  arriving: Arriving,
  splitter: Pipeline,
  make: Callable[[Sentence], Any],
  check: Beat,
) -> Arriving:
  """Yields items as their sentences are found, and when their text arrived.

  Args:
    arriving: parts of a text, and when they arrived.
    splitter: finds words and sentences.
    make: makes an item of a sentence.
    check: called before passages are split and after every batch; may end the
      work by raising.
  """
  arrived = 0.0

  def parts() -> Iterator[str]:
    nonlocal arrived
    for latest, some in arriving:
      arrived = latest
      yield from some

  def annotate(passages: Sequence[Passage]) -> list[Passage]:
    check()
    return splitter.annotate(passages, check)

  with contextlib.closing(arriving):
    for found in raw_text.sentences(parts(), NAME, annotate):
      yield arrived, [*map(make, found)]
