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

  def files(self, tasks: Sequence[str]) -> list[tuple[str, str, int]]:
    """Returns name, hash and number of items of the test file of each task."""
    results = self.row.results
    return [
      (task, results[task].files.get(_TEST, ""), self.count(task))
      for task in tasks
    ]

  def count(self, task: str) -> int:
    """Returns the number of items of a task."""
    return min(len(own.right) for own in self.items[task][0].values())


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
  columns = tuple(
    name for name in COLUMNS if all(name in m.row.tested for m in models)
  )
  if models and not columns:
    return [], [*reasons, "There is no test score that all of them have."]
  tasks = [*dict.fromkeys(COLUMNS[name][0] for name in columns)]
  found = []
  models.sort(key=lambda model: model.files(tasks))
  for files, same in itertools.groupby(models, lambda m: m.files(tasks)):
    own = list(same)
    small = [(task, count) for task, _, count in files if count < LEAST]
    names = ", ".join(model.row.label for model in own)
    if len(own) < 2:
      reasons.append(f"{names}: no other model was scored on the same files.")
    elif small:
      task, count = small[0]
      reasons.append(
        f"{names}: the test file of {task} has {count} items; {LEAST} are "
        "needed."
      )
    else:
      own.sort(key=lambda model: rows.index(model.row))
      found.append(Group(own, columns))
  return found, reasons


def _read(row: Row) -> Model | str:
  """Returns a row with its items, or why it has none."""
  if not row.tested:
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
        "same `finetune` again."
      )
    for path, of_seed in zip(paths, of_seeds, strict=True):
      if lacking := metrics - set(of_seed):
        raise UserError(
          f"{path} lacks {min(lacking)}, which scores.json has; delete "
          f"{path.parent} and run the same command again."
        )
    items[task] = of_seeds
  return Model(row, items)
