"""The annotated file that all pipelines read and are scored on."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.ner.task import Ner
from time_jax.evals.ud.task import Ud
from time_jax.report.results import COLUMNS, PAPER

KINDS: dict[str, type[Ud] | type[Ner]] = {"ud": Ud, "ner": Ner}
# Task -> its scores in tables; JSON has all of them.
SHOWN = {
  "ud": ("UPOS", "Lemmas", "UAS", "LAS"),
  "ner": ("F1", "precision", "recall"),
}


@dataclasses.dataclass(frozen=True)
class Gold:
  """An annotated file.

  Attributes:
    task: ud or ner.
    items: its sentences.
  """

  task: str
  items: Sequence[Any]

  @property
  def drawn(self) -> list[str]:
    """The scores that plots show, which are the paper's."""
    own = [COLUMNS[name] for name in PAPER]
    return [metric for task, metric in own if task == self.task]

  @property
  def ending(self) -> str:
    """How the names of its files end."""
    return KINDS[self.task].ending

  def to_text(self, predicted: Sequence[Any]) -> str:
    """Returns sentences as a file of the task."""
    return KINDS[self.task].to_text(predicted)

  def score(self, predicted: Sequence[Any]) -> dict[str, float | None]:
    """Returns the scores of predicted sentences, in percent.

    Args:
      predicted: the same sentences with what is predicted for them.
    """
    return dict(KINDS[self.task].score(self.items, predicted))


def read(path: pathlib.Path, task: str) -> Gold:
  """Reads an annotated file.

  Args:
    path: the file, as `finetune` takes it.
    task: the task of the models.

  Raises:
    UserError: it is a task without words, or the file is not of that task.
  """
  if task not in KINDS:
    raise UserError(
      f"the models are of task {task!r}, whose input is not words to annotate; "
      f"expected models of one of {', '.join(KINDS)}."
    )
  kind = KINDS[task]
  kind.load_libraries()
  return Gold(task, kind.read(path))


def number_of_words(items: Sequence[Any]) -> int:
  """Returns the number of words of some sentences."""
  return sum(len(item.words) for item in items)
