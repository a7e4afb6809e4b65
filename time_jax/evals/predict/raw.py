"""Raw text as the input of `predict`: a model splits it into sentences."""

from collections.abc import Iterable, Iterator
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.predict.formats import FORMATS, SPLIT, Read
from time_jax.evals.predict.pipeline import Pipeline
from time_jax.evals.predict.streams import NAME
from time_jax.evals.split import raw_text


def reader(task: str, splitter: Pipeline) -> Read:
  """Returns what reads raw text as items of a task.

  Args:
    task: the task.
    splitter: finds words and sentences.

  Raises:
    UserError: the task is not about sentences, or the model is of another one.
  """
  make = FORMATS[task].of_sentence
  if make is None:
    raise UserError(
      f"--split is given with a model of task {task!r}, which does not read "
      "sentences; expected one of ud or ner."
    )
  if splitter.task != SPLIT:
    raise UserError(
      f"--split is a model of task {splitter.task!r}; expected one of "
      "`finetune split`."
    )

  def read(blocks: Iterable[bytes]) -> Iterator[list[Any]]:
    for found in raw_text.sentences(blocks, NAME, splitter.annotate):
      yield [*map(make, found)]

  return read
