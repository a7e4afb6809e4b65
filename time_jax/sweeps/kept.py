"""What is kept of finished points: small files, from which the table is made.

`sweep --results=RESULTS` gives RESULTS the layout of the sweep's workdir, but
without rows, checkpoints and models, so that it may be committed. A sweep in a
new workdir takes the points that are in RESULTS for done.
"""

import pathlib
from collections.abc import Iterable, Iterator, Sequence

from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import list_files
from time_jax.report import per_item
from time_jax.report.results import SCORES_FILE
from time_jax.run.choose import FILE as CHOICE
from time_jax.sweeps.grid import BENCH, DISTILL
from time_jax.sweeps.points import Point
from time_jax.sweeps.stages import RECORD, Record

TOKENS = "tokens.json"  # of a point: how many it read
_METRICS = "metrics.jsonl"
_TABLE = ("sweep.md", "sweep.csv", "sweep.png")


def restore(points: Sequence[Point], results: pathlib.Path) -> list[str]:
  """Copies what is kept of points to their folders, where these are new.

  Args:
    points: the points of the sweep.
    results: folder of what is kept, which need not be there.

  Returns:
    Names of these points.

  Raises:
    UserError: such a point was begun in the workdir, too, or has other
      commands now.
  """
  found = []
  for point in points:
    kept = results / point.name
    if not (kept / RECORD).exists() or (point.folder / RECORD).exists():
      continue
    if point.folder.exists() and any(point.folder.iterdir()):
      raise UserError(
        f"{point.folder} was begun, and {kept} holds the results of that "
        f"point. Delete {point.folder} to take them, or {kept} to go on."
      )
    Record(point, kept)  # Its commands are those of now.
    _copy(list_files(kept), kept, point.folder)
    found.append(point.name)
  return found


def keep(point: Point, tokens: int | None, results: pathlib.Path) -> None:
  """Copies the small files of a finished point, if they are not kept yet.

  Args:
    point: a point, all of whose stages are done.
    tokens: how many tokens of text it has read; None: it reads none.
    results: folder for what is kept, made when missing.
  """
  kept = results / point.name
  if (kept / RECORD).exists():
    return
  if tokens is not None:
    kept.mkdir(parents=True, exist_ok=True)
    atomic_file.write_json(kept / TOKENS, {"tokens": tokens})
  found = [path for path in _files(point) if path.is_file()]
  _copy(found, point.folder, kept)


def keep_table(workdir: pathlib.Path, results: pathlib.Path) -> None:
  """Copies the table of a sweep and its plot.

  Args:
    workdir: folder of the sweep.
    results: folder for what is kept, made when missing.
  """
  found = [workdir / name for name in _TABLE if (workdir / name).exists()]
  _copy(found, workdir, results)


def tokens_of(point: Point) -> int | None:
  """Returns the tokens that a restored point has read; None: it is not one.

  Raises:
    UserError: the file is damaged.
  """
  path = point.folder / TOKENS
  if not path.exists():
    return None
  try:
    return int(atomic_file.read_json(path)["tokens"])
  except DAMAGED_JSON as error:
    raise UserError(
      f"{path} is damaged; expected a number of tokens. Delete {point.folder} "
      "to take what is kept of it once more."
    ) from error


def _files(point: Point) -> Iterator[pathlib.Path]:
  """Yields the files of a point that are kept, those that may be missing too.

  They are what the table is made of, and curves of learning.
  """
  for stage in point.stages:
    values = stage.values
    if stage.name == BENCH:
      yield pathlib.Path(values.json)
    elif stage.name == DISTILL:
      yield values.workdir / _METRICS
      yield values.workdir / CHOICE
    elif stage.name.startswith("finetune"):
      for folder in (values.workdir, *sorted(values.workdir.glob("seed-*"))):
        yield folder / SCORES_FILE
        yield folder / per_item.FILE
        yield folder / _METRICS
  yield point.folder / RECORD


def _copy(
  files: Iterable[pathlib.Path], source: pathlib.Path, target: pathlib.Path
) -> None:
  """Copies files of a folder, last the record: it says that all is there."""
  for path in sorted(files, key=lambda path: path.name == RECORD):
    if path.is_relative_to(source):
      copy = target / path.relative_to(source)
      copy.parent.mkdir(parents=True, exist_ok=True)
      atomic_file.write_bytes(copy, path.read_bytes())
