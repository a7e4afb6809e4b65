"""Results side by side: a row for a model and a language."""

import dataclasses
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from time_jax.core.errors import UserError
from time_jax.report import same_model
from time_jax.report.results import COLUMNS, Result, Speed


@dataclasses.dataclass(frozen=True)
class Cell:
  """A score in percent.

  Attributes:
    mean: over the seeds; None: undefined, as F1 where there is no name to find.
    std: over the seeds; None likewise.
    seeds: how many.
    split: test or dev.
  """

  mean: float | None
  std: float | None
  seeds: int
  split: str


@dataclasses.dataclass(frozen=True)
class Row:
  """A model in a language.

  Attributes:
    lang: ISO code.
    labels: of the model: those of its results, without repetition.
    parameters: of the encoder; None: nothing is known of it.
    cells: by column; what was not measured is absent.
    average: of test scores, if all columns have one.
    share: of the teacher's mean in percent, over what both have on test.
    shared: how many columns these are.
    speed: of its weights; None: not measured.
    common: columns that all models of the language have on test.
  """

  lang: str
  labels: tuple[str, ...]
  parameters: int | None
  cells: Mapping[str, Cell]
  average: float | None
  share: float | None = None
  shared: int = 0
  speed: Speed | None = None
  common: tuple[str, ...] = ()

  @property
  def mean(self) -> float | None:
    """Of the scores that all models of the language have; None: there is none.

    So two models can be compared, and it is what plots show.
    """
    if not self.common:
      return None
    return statistics.fmean(self.tested[name] for name in self.common)

  @property
  def label(self) -> str:
    """What tables call it."""
    return " / ".join(self.labels)

  @property
  def tested(self) -> dict[str, float]:
    """Column -> mean on test; what is known from dev alone is left out."""
    return {
      name: cell.mean
      for name, cell in self.cells.items()
      if cell.split == "test" and cell.mean is not None
    }


def rows(
  results: Sequence[Result], speeds: Sequence[Speed] = (), teacher: str = ""
) -> list[Row]:
  """Puts together what is of the same language and the same weights.

  Args:
    results: of `finetune`.
    speeds: of `bench inference`.
    teacher: label of the rows that others are compared with; empty: none.

  Raises:
    UserError: two results for one cell, two models of one label in a language,
      or no such teacher.
  """
  results, speeds = same_model.reconcile(results, speeds)
  results = _told_apart(results)
  _check_labels(results)
  groups: dict[tuple[str, str], dict[str, Result]] = {}
  for result in results:
    group = groups.setdefault((result.lang, result.fingerprint), {})
    if other := group.get(result.task):
      raise UserError(
        f"{other.place} and {result.place} both hold {result.task} of "
        f"{result.label!r} in {result.lang!r}; give one of them."
      )
    group[result.task] = result
  found = [_row(group, speeds) for group in groups.values()]
  found.sort(key=lambda row: (row.lang, -(row.parameters or 0), row.label))
  found = with_common(found)
  return [_compared(row, found, teacher) for row in found] if teacher else found


def with_common(rows: Sequence[Row]) -> list[Row]:
  """The rows with the columns that all of them have in their language."""
  found = []
  for row in rows:
    others = [other.tested for other in rows if other.lang == row.lang]
    common = (name for name in COLUMNS if all(name in t for t in others))
    found.append(dataclasses.replace(row, common=tuple(common)))
  return found


def _told_apart(results: Sequence[Result]) -> list[Result]:
  """Gives models of one label more of their path, where a label is only that.

  Students of a sweep all lie in a folder of one name, so they would all have
  one label, unless the user has given them others.
  """
  found = list(results)
  taken: dict[tuple[str, str], set[str]] = {}
  for one in results:
    taken.setdefault((one.lang, one.label), set()).add(one.fingerprint)
  unclear = {
    (label, fingerprint)
    for (_, label), prints in taken.items()
    if len(prints) > 1
    for fingerprint in prints
  }
  for label in sorted({label for label, _ in unclear}):
    places = [
      i
      for i, one in enumerate(results)
      if (one.label, one.fingerprint) in unclear and one.label == label
    ]
    for i, name in zip(
      places, _longer([results[i] for i in places]), strict=True
    ):
      found[i] = dataclasses.replace(results[i], label=name)
  return found


def _longer(results: Sequence[Result]) -> list[str]:
  """Labels for models that have the same one; the same where none is better."""
  label = results[0].label
  name, mark, step = label.rpartition("@")
  own = pathlib.PurePath(name if mark else label).parts
  paths = [pathlib.PurePath(one.model).parts for one in results]
  if any(path[-len(own) :] != own for path in paths):
    return [label] * len(results)  # Some user's own.
  for count in range(len(own) + 1, max(map(len, paths)) + 1):
    names = ["/".join(path[-count:]) + mark + step for path in paths]
    prints: dict[str, set[str]] = {}
    for one, found in zip(results, names, strict=True):
      prints.setdefault(found, set()).add(one.fingerprint)
    if all(len(some) == 1 for some in prints.values()):
      return names
  return [label] * len(results)


def _check_labels(results: Sequence[Result]) -> None:
  """UserError where a label is of two models in one language."""
  first: dict[tuple[str, str], Result] = {}
  for one in results:
    other = first.setdefault((one.lang, one.label), one)
    if other.fingerprint != one.fingerprint:
      raise UserError(
        f"{other.place} and {one.place} are both labelled {one.label!r} in "
        f"{one.lang!r}, but are of two models ({other.fingerprint[:12]} and "
        f"{one.fingerprint[:12]}). Give one of them another label: the same "
        "`finetune` command with --config.label=NAME trains nothing again. If "
        "an earlier version wrote one of them, fine-tune it again."
      )


def _row(group: Mapping[str, Result], speeds: Sequence[Speed]) -> Row:
  first = next(iter(group.values()))
  cells = {}
  for column, (task, metric) in COLUMNS.items():
    if task in group:
      result = group[task]
      score = result.scores[result.split][metric]
      cells[column] = Cell(
        score.get("mean"), score.get("std"), len(result.seeds), result.split
      )
  labels = tuple(dict.fromkeys(result.label for result in group.values()))
  row = Row(first.lang, labels, first.parameters["all"], cells, None)
  return dataclasses.replace(
    row,
    average=(
      statistics.fmean(row.tested.values())
      if len(row.tested) == len(COLUMNS)
      else None
    ),
    speed=speed_of(s for s in speeds if s.fingerprint == first.fingerprint),
  )


def speed_of(speeds: Iterable[Speed]) -> Speed | None:
  """Of the smallest batch in our engine, as a pipeline waits for it."""
  own = [speed for speed in speeds if speed.engine == "jax"]
  return min(own, key=lambda speed: speed.batch_size, default=None)


def _compared(row: Row, all_: Sequence[Row], teacher: str) -> Row:
  """With its share of the teacher's scores in its language."""
  labels = sorted({label for other in all_ for label in other.labels})
  if teacher not in labels:
    raise UserError(
      f"no result is of teacher {teacher!r}; known: {', '.join(labels)}."
    )
  for other in all_:
    both = [name for name in row.tested if name in other.tested]
    if other.lang == row.lang and teacher in other.labels and both:
      own, its = (
        statistics.fmean(one.tested[name] for name in both)
        for one in (row, other)
      )
      share = 100 * own / its if its else None
      return dataclasses.replace(row, share=share, shared=len(both))
  return row
