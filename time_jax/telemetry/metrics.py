"""What a run tells: metrics.jsonl, TensorBoard, a progress bar or lines."""

import contextlib
import datetime
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from time_jax.core.storage import atomic_file, lease
from time_jax.telemetry import history
from time_jax.telemetry.tracking import Tracker

Item = TypeVar("Item")
_proto: Any = event_pb2  # Type checkers do not see its classes.
Scalars = dict[str, float | int]
# Seconds between two lines of progress in a log, where no bar can move.
_PAUSE = 60


class Recorder:
  """Writes a run's scalars; in a resumed run, as if it had never stopped.

  A context manager. Only process 0 has one that is `active`; the others'
  calls do nothing.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    num_steps: int,
    active: bool,
    tracker: Tracker | None = None,
  ) -> None:
    """Opens the files, dropping what lies behind `step`: it will come again.

    Args:
      workdir: of the run.
      step: steps done so far.
      num_steps: of the whole run.
      active: whether this process writes.
      tracker: gets the same scalars; closed with the files.
    """
    self._active, self._tracker = active, tracker
    if not active:
      return
    lease.check()
    self._num_steps = num_steps
    self._path = workdir / "metrics.jsonl"
    # From step 0 the run starts anew, its first evaluation included.
    rows = history.read_lines(self._path)[0] if step else []
    kept = [
      row
      for row in rows
      if isinstance(row.get("step"), int) and row["step"] <= step
    ]
    text = "".join(atomic_file.as_json(row) + "\n" for row in kept)
    atomic_file.write_text(self._path, text)
    self._file = self._path.open("a", encoding="utf-8")
    self._board = _Board(workdir / "tensorboard", step + 1 if step else 0)
    self._bar = tqdm.tqdm(
      initial=step,
      total=num_steps,
      unit="step",
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
    )
    self._next_line = -math.inf

  def __enter__(self) -> "Recorder":
    return self

  def __exit__(self, kind: type | None, *exception: object) -> None:
    if self._active:
      self._bar.close()
      # What could not be written was told by `write`, and still cannot.
      for file in (self._board, self._file):
        with contextlib.suppress(OSError):
          file.close()
    if self._tracker:
      self._tracker.close(failed=kind is not None)

  def advance(self) -> None:
    """Moves the bar by one step."""
    if self._active:
      self._bar.update()

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Records the scalars of a step, and shows the telling ones in the bar."""
    if not self._active:
      return
    lease.check()
    self._file.write(atomic_file.as_json({"step": step, **scalars}) + "\n")
    self._file.flush()
    self._board.write(step, scalars)
    if self._tracker:
      self._tracker.write(step, scalars)
    self._bar.set_postfix_str(_short(scalars))
    if self._bar.disable and "train/loss" in scalars:
      self._tell(step, scalars)

  def _tell(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Progress for a log: at once, and then a line a minute."""
    if time.monotonic() < self._next_line:
      return
    self._next_line = time.monotonic() + _PAUSE
    line = f"step {step} of {self._num_steps}: {_short(scalars)}"
    if rate := scalars.get("perf/steps_per_second"):
      seconds = round((self._num_steps - step) / rate)
      line += f" left {datetime.timedelta(seconds=seconds)}"
    self.say(line)

  def say(self, text: str) -> None:
    """Prints a line without tearing the bar; of process 0."""
    if self._active:
      tqdm.tqdm.write(text, file=sys.stderr)
      sys.stderr.flush()


class _Board:
  """A file for TensorBoard, without the thread of tensorboardX's writer.

  On a full disk that thread ends, and whoever writes next waits for ever.
  """

  def __init__(self, folder: pathlib.Path, first: int) -> None:
    folder.mkdir(exist_ok=True)
    self._file = EventsWriter(str(folder / "events"))
    # What an earlier session has of the steps from here on is not shown.
    start = _proto.SessionLog(status=_proto.SessionLog.START)
    self._file.write_event(
      _proto.Event(step=first, file_version="brain.Event:2")
    )
    self._file.write_event(_proto.Event(step=first, session_log=start))
    self._flushed = 0.0

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    for name, value in scalars.items():
      if name == "time/unix":  # TensorBoard has times of its own.
        continue
      found = summary.scalar(name, value)
      event = _proto.Event(wall_time=time.time(), step=step, summary=found)
      self._file.write_event(event)
    if time.monotonic() > self._flushed + 60:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()


def _short(scalars: Mapping[str, float | int]) -> str:
  shown = {
    "train/loss": "loss {:.4f}",
    "train/kl_qq": "qq {:.3f}",
    "train/kl_kk": "kk {:.3f}",
    "train/kl_vv": "vv {:.3f}",
    "train/learning_rate": "lr {:.1e}",
    "perf/tokens_per_second": "{:,.0f} tok/s",
    "perf/input_wait": "wait {:.0%}",
    "eval/relation_loss": "eval {:.4f}",
  }
  return " ".join(
    text.format(scalars[name])
    for name, text in shown.items()
    if name in scalars
  )


class Meter:
  """Speed between two records: real tokens per second, share spent waiting."""

  def __init__(self) -> None:
    """Starts the clock."""
    self.restart()

  def restart(self) -> None:
    """Forgets; called after a record, an evaluation, a compilation."""
    self._start = time.perf_counter()
    self._steps = self._tokens = 0
    self._waited = 0.0

  def count(self, tokens: int) -> None:
    """Counts a step in whose results are there.

    A step that was only started counts later: after an evaluation the first
    ones would count in an interval in which they do not end.

    Args:
      tokens: of the step that are real, padding left out.
    """
    self._steps += 1
    self._tokens += tokens

  def timed(self, items: Iterator[Item]) -> Iterator[Item]:
    """Passes items on, counting the time that each one lets us wait."""
    while True:
      before = time.perf_counter()
      try:
        item = next(items)
      except StopIteration:
        return
      self._waited += time.perf_counter() - before
      yield item

  def read(self, devices: int) -> Scalars:
    """Scalars since the last restart.

    Args:
      devices: that share the work.
    """
    if not self._steps:  # Two records at once, at a stop: one has the speed.
      return {}
    seconds = time.perf_counter() - self._start
    rate = self._tokens / seconds
    return {
      "perf/steps_per_second": self._steps / seconds,
      "perf/tokens_per_second": rate,
      "perf/tokens_per_second_per_device": rate / devices,
      "perf/input_wait": self._waited / seconds,
    }
