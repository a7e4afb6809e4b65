"""The stages of a point: each a process, and a record of how it ended.

POINT/point.json says which stages were started, and how each ended: with it, no
finished one is started again.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from typing import Any

from time_jax.core.errors import DAMAGED_JSON, RestartableError, UserError
from time_jax.core.storage import atomic_file, json_file
from time_jax.report import results, table
from time_jax.report.results import Speed
from time_jax.sweeps.grid import BENCH
from time_jax.sweeps.points import Point, Stage

RECORD = "point.json"
_SCHEMA = "time_jax.sweep/1"


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a stage ended.

  Attributes:
    words: its command, with WORKDIR for the sweep's folder.
    code: its exit code.
    seconds: time over all its starts.
  """

  words: list[str]
  code: int
  seconds: float


class Record:
  """What is known of a point's stages, on disk after every change."""

  def __init__(self, point: Point, folder: pathlib.Path | None = None) -> None:
    """Reads what an earlier session left.

    Args:
      point: the point.
      folder: where the record is; None: in the folder of the point.

    Raises:
      UserError: a finished stage has another command now.
    """
    folder = folder or point.folder
    self._point, self._path = point, folder / RECORD
    self._ended: list[Ended] = []
    if self._path.exists():
      content = json_file.read_json(self._path)
      try:
        stages = content["stages"]
        self._ended = [atomic_file.from_json(Ended, row) for row in stages]
      except DAMAGED_JSON as error:
        raise UserError(
          f"{self._path} is damaged; delete {folder} to run it again."
        ) from error
    for i in filter(self.finished, range(len(point.stages))):
      before, now = self._ended[i].words, self._words(i)
      if before != now:
        gone = " ".join(word for word in before if word not in now) or "no more"
        new = " ".join(word for word in now if word not in before) or "no more"
        raise UserError(
          f"{self._path}: stage {i + 1} was finished with {gone!r}, and has "
          f"{new!r} now. Use another --workdir, or the sweep as it was, or "
          f"delete {folder}."
        )

  def _words(self, i: int) -> list[str]:
    # The folder may be called otherwise on another machine.
    workdir, stage = str(self._point.folder.parent), self._point.stages[i]
    return [word.replace(workdir, "WORKDIR") for word in stage.words]

  def finished(self, i: int) -> bool:
    """Returns whether stage i, from 0, is done."""
    return i < len(self._ended) and self._ended[i].code == 0

  def failure(self) -> tuple[Stage, int] | None:
    """Returns the last started stage and its exit code, if it is not 0."""
    i = len(self._ended) - 1
    if not 0 <= i < len(self._point.stages) or self.finished(i):
      return None
    return self._point.stages[i], self._ended[i].code

  def add(self, i: int, code: int, seconds: float) -> None:
    """Writes down how stage i ended, after so many seconds of this start."""
    before = self._ended[i].seconds if i < len(self._ended) else 0.0
    ended = Ended(self._words(i), code, round(before + seconds, 1))
    self._ended[i:] = [ended]
    content = {
      "schema": _SCHEMA,
      "values": dict(self._point.values),
      "stages": [dataclasses.asdict(ended) for ended in self._ended],
    }
    atomic_file.write_json(self._path, content, default=str)


def run(stage: Stage, log: pathlib.Path, lock: int) -> tuple[int, float, bool]:
  """Runs a stage to its end; SIGTERM is passed on to it, and waited for.

  Args:
    stage: the command.
    log: file to which its output is added.
    lock: file descriptor that the stage keeps open, see `alone`.

  Returns:
    Its exit code, the seconds that it took, and whether there was a SIGTERM.
  """
  process: subprocess.Popen[bytes] | None = None
  stopped = False

  def stop(number: int, frame: Any) -> None:
    del frame
    nonlocal stopped
    stopped = True
    if process:
      process.send_signal(number)

  start = time.monotonic()
  before = signal.signal(signal.SIGTERM, stop)
  try:
    with log.open("ab") as file:
      process = subprocess.Popen(
        [sys.executable, "-m", "time_jax", *stage.words],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        pass_fds=[lock],
      )
    if stopped:  # Before there was a process to pass it on to.
      process.terminate()
    try:
      code = process.wait()
    except KeyboardInterrupt:  # The terminal sent it to the stage, too.
      process.wait()
      raise
  finally:
    signal.signal(signal.SIGTERM, before)
  return code, time.monotonic() - start, stopped


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Generator[int, None, None]:
  """Holds the lock of a sweep, and yields its file descriptor.

  Processes that inherit it hold the lock, too: a stage whose sweep was killed
  keeps the next one waiting, instead of working beside it.

  Raises:
    RestartableError: someone else holds it.
  """
  with (workdir / "sweep.lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise RestartableError(
        f"another sweep, or a stage of one that was killed, is at work in "
        f"{workdir}; wait for its end."
      ) from None
    yield file.fileno()


def log_of(point: Point, i: int) -> pathlib.Path:
  """Returns the file for the output of stage i, from 0."""
  name = point.stages[i].name.replace(" ", "-")
  return point.folder / f"{i + 1}-{name}.log"


def reason_in(log: pathlib.Path) -> str:
  """Returns the last line of a stage's output."""
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  last = next((line for line in reversed(lines) if line.strip()), "no output")
  return last.removeprefix("time_jax: error: ").strip()[:300]


def speed_of(point: Point) -> Speed | None:
  """Returns the latency that `bench inference` measured; None: not yet."""
  paths = [stage.values.json for stage in point.stages if stage.name == BENCH]
  _, speeds = results.read([path for path in paths if path.exists()])
  return table.speed_of(speeds)
