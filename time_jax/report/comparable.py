"""Which models of a language were scored on the same items."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from time_jax.core.errors import UserError
from time_jax.report import per_item
from time_jax.report.per_item import PerItem
from time_jax.report.results import COLUMNS
from time_jax.report.table import Row

LEAST = 30  # items of a file; fewer say too little of what else could be asked
_TEST = "test"


@dataclasses.dataclass(frozen=True)
class Model:
  """A row, and what each item of the test files adds to its scores.

  Attributes:
    row: the row.
    items: task -> what `Result.items` returns.
  """

  row: Row
  items: Mapping[str, Sequence[PerItem]]

  @property
  def tasks(self) -> list[str]:
    """The tasks with a test score, those of the first columns first."""
    return [
      *dict.fromkeys(COLUMNS[c][0] for c in COLUMNS if c in self.row.tested)
    ]

  def file(self, task: str) -> tuple[str, str, int]:
    """Returns the test file of a task: its name, hash and number of items."""
    digest = self.row.results[task].files.get(_TEST, "")
    of_seed = self.items[task][0]
    return task, digest, len(next(iter(of_seed.values())).right)


@dataclasses.dataclass(frozen=True)
class Group:
  """Models that can be compared item by item.

  Attributes:
    models: two or more.
    columns: those that all of them have on test.
  """

  models: Sequence[Model]
  columns: tuple[str, ...]


def groups(rows: Sequence[Row]) -> tuple[list[Group], list[str]]:
  """Splits the rows of a language into those that can be compared.

  Args:
    rows: all rows of a language.

  Returns:
    Groups of rows, and for the others a sentence each that says why not.

  Raises:
    UserError: a file with items is damaged.
  """
  models, reasons = [], []
  for row in rows:
    model = _read(row)
    if isinstance(model, str):
      reasons.append(model)
    else:
      models.append(model)
  found = []

  def first(model: Model) -> tuple[str, str, int]:
    return model.file(model.tasks[0])

  for (task, _, count), same in itertools.groupby(
    sorted(models, key=first), first
  ):
    own = sorted(same, key=lambda model: rows.index(model.row))
    names = ", ".join(model.row.label for model in own)
    if len(own) < 2:
      reasons.append(f"{names}: no other model was scored on the same file.")
    elif count < LEAST:
      reasons.append(
        f"{names}: the test file of {task} has {count} items; {LEAST} are "
        "needed."
      )
    else:
      found.append(Group(own, _shared(own)))
  return found, reasons


def _shared(models: Sequence[Model]) -> tuple[str, ...]:
  """Returns the columns that all models have of the same file."""

  def of_one_file(column: str) -> bool:
    task = COLUMNS[column][0]
    if not all(column in model.row.tested for model in models):
      return False
    files = {model.file(task) for model in models}
    return len(files) == 1 and files.pop()[-1] >= LEAST

  return tuple(filter(of_one_file, COLUMNS))


def _read(row: Row) -> Model | str:
  """Returns a row with its items, or why it has none."""
  if not row.tested:
    if not row.cells.keys() <= COLUMNS.keys():
      return (
        f"{row.label}: it is scored on raw text alone, in which each model "
        "finds sentences of its own, so that there are none to compare."
      )
    return f"{row.label}: there is no test score."
  items = {}
  for task, result in row.results.items():
    metrics = {COLUMNS[c][1] for c in row.tested if COLUMNS[c][0] == task}
    if not metrics:
      continue
    paths = [result.place / f"seed-{s}" / per_item.FILE for s in result.seeds]
    of_seeds = result.items()
    if of_seeds is None:
      return (
        f"{row.label}: {paths[0]} is not there. Copy the folders of the seeds, "
        "too; where an earlier version fine-tuned, delete them and run the "
        "same command again."
      )
    for path, of_seed in zip(paths, of_seeds, strict=True):
      if lacking := metrics - set(of_seed):
        raise UserError(
          f"{path} lacks {min(lacking)}, which scores.json has; delete "
          f"{path.parent} and run the same command again."
        )
    lengths = {len(own.right) for of in of_seeds for own in of.values()}
    if len(lengths) > 1:
      raise UserError(
        f"{paths[0]} and the files of other seeds have {min(lengths)} to "
        f"{max(lengths)} items in a score; expected as many in each. Delete "
        f"{result.place} and run the same command again."
      )
    items[task] = of_seeds
  return Model(row, items)
