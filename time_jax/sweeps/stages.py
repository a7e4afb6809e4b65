"""The stages of a point: processes of their own, and what became of them.

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
from time_jax.core.storage import atomic_file
from time_jax.hf import files
from time_jax.report import results, table
from time_jax.report.results import Speed
from time_jax.sweeps.grid import BENCH, Point, Stage

RECORD = "point.json"
_SCHEMA = "time_jax.sweep/1"


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a stage ended.

  Attributes:
    words: of its command; the sweep's folder is WORKDIR in them.
    code: its exit code.
    seconds: over all its starts.
  """

  words: tuple[str, ...]
  code: int
  seconds: float


class Record:
  """What is known of a point's stages, on disk after every change."""

  def __init__(self, point: Point) -> None:
    """Reads what an earlier session left.

    Raises:
      UserError: a stage was finished that is another one now.
    """
    self._point, self._path = point, point.folder / RECORD
    self._ended: list[Ended] = []
    if self._path.exists():
      content = files.read_json(self._path)
      try:
        self._ended = [
          Ended(tuple(map(str, row["words"])), row["code"], row["seconds"])
          for row in content["stages"]
        ]
      except DAMAGED_JSON as error:
        raise UserError(
          f"{self._path} is damaged; delete {point.folder} to run it again."
        ) from error
    for i, stage in enumerate(point.stages):
      if self.finished(i):
        self._check_same(self._ended[i].words, self._words(stage), i)

  def _words(self, stage: Stage) -> tuple[str, ...]:
    # The folder may be called otherwise on another machine.
    workdir = str(self._point.folder.parent)
    return tuple(word.replace(workdir, "WORKDIR") for word in stage.words)

  def _check_same(
    self, before: tuple[str, ...], now: tuple[str, ...], i: int
  ) -> None:
    if before == now:
      return
    gone = " ".join(word for word in before if word not in now)
    new = " ".join(word for word in now if word not in before)
    raise UserError(
      f"{self._path}: stage {i + 1} was finished with {gone or 'no more'!r}, "
      f"and has {new or 'no more'!r} now. Use another --workdir, or the sweep "
      f"as it was, or delete {self._point.folder}."
    )

  def finished(self, i: int) -> bool:
    """Whether stage i, from 0, is done."""
    return i < len(self._ended) and self._ended[i].code == 0

  def failure(self) -> tuple[Stage, int] | None:
    """The last stage that was started and its exit code, if it is not 0."""
    i = len(self._ended) - 1
    if not 0 <= i < len(self._point.stages) or self.finished(i):
      return None
    return self._point.stages[i], self._ended[i].code

  def add(self, i: int, code: int, seconds: float) -> None:
    """Writes down how stage i ended, after so many seconds of this start."""
    before = self._ended[i].seconds if i < len(self._ended) else 0.0
    words = self._words(self._point.stages[i])
    self._ended[i:] = [Ended(words, code, round(before + seconds, 1))]
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
    log: file that its output is added to.
    lock: a file descriptor that it keeps open, see `alone`.

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
  """Holds a lock, and gives its file descriptor.

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
  """Where the output of stage i, from 0, goes."""
  name = point.stages[i].name.replace(" ", "-")
  return point.folder / f"{i + 1}-{name}.log"


def reason_in(log: pathlib.Path) -> str:
  """The last line of a stage's output."""
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  last = next((line for line in reversed(lines) if line.strip()), "no output")
  return last.removeprefix("time_jax: error: ").strip()[:300]


def speed_of(point: Point) -> Speed | None:
  """What `bench inference` measured; None: not yet, or nothing."""
  paths = [
    pathlib.Path(stage.values.json).expanduser()
    for stage in point.stages
    if stage.name == BENCH
  ]
  _, speeds = results.read([path for path in paths if path.exists()])
  return table.speed_of(speeds)
