"""Results side by side: a row for a model and a language."""

import collections
import dataclasses
import itertools
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from time_jax.core.errors import UserError
from time_jax.report import fingerprints
from time_jax.report.results import COLUMNS, FROM_TEXT, PAPER, Result, Speed


@dataclasses.dataclass(frozen=True)
class Cell:
  """A score in percent.

  Attributes:
    mean: mean over the seeds; None where the score is undefined, as F1 is
      where there is no name to find.
    std: standard deviation over the seeds; None likewise.
    seeds: number of seeds.
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
    labels: the labels that results give the model, each once.
    parameters: number of parameters of the encoder; None: not known.
    cells: column, of `COLUMNS` or `FROM_TEXT` -> score; what was not measured
      is absent.
    share: mean in percent of the teacher's, over the test scores of both.
    shared: number of these scores.
    speed: latency of the model; None: not measured.
    common: columns that all models of the language have on test.
    results: task -> what its cells come from.
  """

  lang: str
  labels: tuple[str, ...]
  parameters: int | None
  cells: Mapping[str, Cell]
  share: float | None = None
  shared: int = 0
  speed: Speed | None = None
  common: tuple[str, ...] = ()
  results: Mapping[str, Result] = dataclasses.field(default_factory=dict)

  @property
  def average(self) -> float | None:
    """The paper's mean: of five test scores, if all are there."""
    if not self.tested.keys() >= set(PAPER):
      return None
    return statistics.fmean(self.tested[name] for name in PAPER)

  @property
  def mean(self) -> float | None:
    """The mean of the scores that all models of the language have, if any.

    So two models can be compared, and it is what plots show.
    """
    if not self.common:
      return None
    return statistics.fmean(self.tested[name] for name in self.common)

  @property
  def label(self) -> str:
    """The labels as tables show them."""
    return " / ".join(self.labels)

  @property
  def tested(self) -> dict[str, float]:
    """Column of `COLUMNS` -> mean on test.

    Scores that are known on dev only are absent, and those of raw text, which
    are in no mean.
    """
    return {
      name: cell.mean
      for name, cell in self.cells.items()
      if name in COLUMNS and cell.split == "test" and cell.mean is not None
    }


def rows(
  results: Sequence[Result], speeds: Sequence[Speed] = (), teacher: str = ""
) -> list[Row]:
  """Joins results of the same language and the same model.

  Args:
    results: scores of `finetune`.
    speeds: latencies of `bench inference`.
    teacher: label of the rows that others are compared with; "" is none.

  Raises:
    UserError: two results for one cell, two models of one label in a language,
      or no such teacher.
  """
  results, speeds = fingerprints.unify(results, speeds)
  results = _with_distinct_labels(results)
  models: dict[tuple[str, str], dict[str, Result]] = {}
  for result in results:
    tasks = models.setdefault((result.lang, result.fingerprint), {})
    if other := tasks.get(result.task):
      raise UserError(
        f"{other.place} and {result.place} both hold {result.task} of "
        f"{result.label!r} in {result.lang!r}; give one of them."
      )
    tasks[result.task] = result
  table = [_row(tasks, speeds) for tasks in models.values()]
  table.sort(key=lambda row: (row.lang, -(row.parameters or 0), row.label))
  labels = sorted({label for row in table for label in row.labels})
  if teacher and teacher not in labels:
    raise UserError(
      f"no result is of teacher {teacher!r}; known: {', '.join(labels)}."
    )
  teachers = [row for row in table if teacher in row.labels]
  return [_compared(row, teachers) for row in with_common(table)]


def with_common(rows: Sequence[Row]) -> list[Row]:
  """Fills in the columns that all rows of a language have.

  Rows with scores of raw text alone have none, and take none from the others.
  """
  common: dict[str, tuple[str, ...]] = {}  # language -> columns
  in_means = [not row.cells or bool(COLUMNS.keys() & row.cells) for row in rows]
  for row in itertools.compress(rows, in_means):
    before = common.get(row.lang, tuple(COLUMNS))
    common[row.lang] = tuple(name for name in before if name in row.tested)
  return [
    dataclasses.replace(row, common=common[row.lang] if known else ())
    for row, known in zip(rows, in_means, strict=True)
  ]


def speed_of(speeds: Iterable[Speed]) -> Speed | None:
  """Returns the latency of the smallest batch in our engine, if measured."""
  own = [speed for speed in speeds if speed.engine == "jax"]
  return min(own, key=lambda speed: speed.batch_size, default=None)


def _row(tasks: Mapping[str, Result], speeds: Sequence[Speed]) -> Row:
  first = next(iter(tasks.values()))
  cells = {}
  places = [(column, *place) for column, place in COLUMNS.items()]
  for task, columns in FROM_TEXT.items():
    places += [(column, task, metric) for column, metric in columns.items()]
  for column, task, metric in places:
    result = tasks.get(task)
    if result and (score := result.scores[result.split].get(metric)):
      cells[column] = Cell(
        score.get("mean"), score.get("std"), len(result.seeds), result.split
      )
  return Row(
    lang=first.lang,
    labels=tuple(dict.fromkeys(result.label for result in tasks.values())),
    parameters=first.parameters.get("all"),
    cells=cells,
    speed=speed_of(s for s in speeds if s.fingerprint == first.fingerprint),
    results=tasks,
  )


def _compared(row: Row, teachers: Sequence[Row]) -> Row:
  """Fills in the share of the teacher's scores in the same language."""
  for teacher in teachers:
    both = [name for name in row.tested if name in teacher.tested]
    if teacher.lang == row.lang and both:
      own = statistics.fmean(row.tested[name] for name in both)
      full = statistics.fmean(teacher.tested[name] for name in both)
      share = 100 * own / full if full else None
      return dataclasses.replace(row, share=share, shared=len(both))
  return row


def _with_distinct_labels(results: Sequence[Result]) -> list[Result]:
  """Adds more of the path to a label that several models of a language share.

  Students of a sweep all lie in a folder of one name, so they would all have
  one label, unless the user has given them others.

  Raises:
    UserError: the paths do not tell them apart either.
  """
  models: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
  for result in results:
    models[result.lang, result.label].add(result.fingerprint)
  # Label -> fingerprints of models of one language that share it.
  ambiguous: dict[str, set[str]] = collections.defaultdict(set)
  for (_, label), prints in models.items():
    if len(prints) > 1:
      ambiguous[label] |= prints
  renamed = {}
  for label, prints in ambiguous.items():
    same = [r for r in results if r.label == label and r.fingerprint in prints]
    renamed |= zip(map(id, same), _longer_labels(same), strict=True)
  distinct = [
    dataclasses.replace(r, label=renamed.get(id(r), r.label)) for r in results
  ]
  first: dict[tuple[str, str], Result] = {}
  for result in distinct:
    other = first.setdefault((result.lang, result.label), result)
    if other.fingerprint != result.fingerprint:
      raise UserError(
        f"{other.place} and {result.place} are both labelled {result.label!r} "
        f"in {result.lang!r}, but are of two models ({other.fingerprint[:12]} "
        f"and {result.fingerprint[:12]}). Give one of them another label: the "
        "same `finetune` command with --config.label=NAME trains nothing "
        "again. If an earlier version wrote one of them, fine-tune it again."
      )
  return distinct


def _longer_labels(results: Sequence[Result]) -> list[str]:
  """Returns distinct labels for models of one label, or that label.

  models a/student, b/student, label student@12  ->  a/student@12,
                                                     b/student@12
  """
  label = results[0].label
  name, mark, step = label.rpartition("@")
  own = pathlib.PurePath(name if mark else label).parts
  paths = [pathlib.PurePath(result.model).parts for result in results]
  lengths: Iterable[int] = range(len(own) + 1, max(map(len, paths)) + 1)
  if any(path[-len(own) :] != own for path in paths):
    lengths = ()  # The user has chosen this label.
  for length in lengths:
    labels = ["/".join(path[-length:]) + mark + step for path in paths]
    pairs = {(x, r.fingerprint) for x, r in zip(labels, results, strict=True)}
    if len(pairs) == len(set(labels)):
      return labels
  return [label] * len(results)
