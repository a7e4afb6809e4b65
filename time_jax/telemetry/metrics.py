"""Records metrics: metrics.jsonl, TensorBoard, a progress bar or log lines."""

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm

from time_jax.core.storage import atomic_file, lease
from time_jax.core.storage.paths import Path
from time_jax.telemetry import history
from time_jax.telemetry.history import METRIC
from time_jax.telemetry.tracking import Tracker

_LINE_EVERY = 60  # seconds between two lines of progress in a log


def _import_tensorboardx() -> tuple[Any, Any, Any]:
  """Imports tensorboardX without PyTorch, which takes it seconds to import.

  Returns:
    The class that writes files, the function that makes a summary of a scalar,
    and the module of the messages, whose classes type checkers do not see.
  """
  modules: dict[str, Any] = sys.modules
  hidden = modules.setdefault("torch", None) is None
  try:
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2
  finally:
    if hidden:
      del modules["torch"]
  return event_file_writer.EventsWriter, summary.scalar, event_pb2


_EventsWriter, _scalar_summary, _proto = _import_tensorboardx()


class Recorder:
  """Records a run's scalars; in a resumed run, as if it had never stopped.

  Each student has records of its own; the terminal shows those of all. A
  context manager. Only in process 0 it is `active`; in the others its calls do
  nothing.
  """

  def __init__(
    self,
    folders: Mapping[str, Path],
    step: int,
    num_steps: int,
    active: bool,
    trackers: Mapping[str, Tracker] | None = None,
  ) -> None:
    """Opens the files, and drops records after `step`, which come again.

    Args:
      folders: where the records of each student go, by its name.
      step: steps done so far.
      num_steps: steps of the whole run.
      active: whether this process writes.
      trackers: by student, a service that gets the same scalars, closed with
        the files; None: no service.
    """
    self._active, self._trackers = active, dict(trackers or {})
    self._files: dict[str, _Files] = {}
    if not active:
      return
    lease.check()
    self._num_steps = num_steps
    self._files = {name: _Files(f, step) for name, f in folders.items()}
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
      for files in self._files.values():
        files.close()
    for tracker in self._trackers.values():
      tracker.close(failed=kind is not None)

  def advance(self) -> None:
    """Moves the bar by one step."""
    if self._active:
      self._bar.update()

  def write(
    self, step: int, scalars: Mapping[str, Mapping[str, float | int]]
  ) -> None:
    """Records the scalars of a step, and shows some of them to the user.

    Args:
      step: number of the step.
      scalars: by student, metrics by name, such as "train/loss".
    """
    if not self._active:
      return
    lease.check()
    for name, own in scalars.items():
      self._files[name].write(step, own)
      if tracker := self._trackers.get(name):
        tracker.write(step, own)
    shown = _shown(scalars, several=len(self._files) > 1)
    self._bar.set_postfix_str(shown)
    first = next(iter(scalars.values()), {})
    if self._bar.disable and "train/loss" in first:
      self._log_line(step, shown, first.get("perf/steps_per_second"))

  def _log_line(self, step: int, shown: str, rate: float | None) -> None:
    """Prints progress for a log: at once, and then a line a minute."""
    if time.monotonic() < self._next_line:
      return
    self._next_line = time.monotonic() + _LINE_EVERY
    line = f"step {step} of {self._num_steps}: {shown}"
    if rate:
      seconds = round((self._num_steps - step) / rate)
      line += f" left {datetime.timedelta(seconds=seconds)}"
    self.say(line)

  def say(self, text: str) -> None:
    """Prints a line in process 0, without tearing the bar."""
    if self._active:
      tqdm.tqdm.write(text, file=sys.stderr)
      sys.stderr.flush()


class _Files:
  """The records of one student: metrics.jsonl, and those for TensorBoard."""

  def __init__(self, folder: Path, step: int) -> None:
    """Opens them, and drops records after `step`."""
    path = folder / "metrics.jsonl"
    # From step 0 the run starts anew, its first evaluation included.
    rows = history.read_lines(path)[0] if step else []
    kept = [
      row
      for row in rows
      if isinstance(row.get("step"), int) and row["step"] <= step
    ]
    text = "".join(atomic_file.as_json(row) + "\n" for row in kept)
    atomic_file.write_text(path, text)
    self._file = path.open("a", encoding="utf-8")
    self.board = _Board(folder / "tensorboard", step + 1 if step else 0)

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    self._file.write(atomic_file.as_json({"step": step, **scalars}) + "\n")
    self._file.flush()
    self.board.write(step, scalars)

  def close(self) -> None:
    # `write` has raised what cannot be written, and it still cannot.
    for file in (self.board, self._file):
      with contextlib.suppress(OSError):
        file.close()


class _Board:
  """Writes a file for TensorBoard, without the thread of tensorboardX's writer.

  On a full disk that thread ends, and whoever writes next waits for ever.
  """

  def __init__(self, folder: Path, first: int) -> None:
    folder.mkdir(exist_ok=True)
    self._file = _EventsWriter(str(folder / "events"))
    # What an earlier session has of the steps from here on is not shown.
    start = _proto.SessionLog(status=_proto.SessionLog.START)
    self._file.write_event(
      _proto.Event(step=first, file_version="brain.Event:2")
    )
    self._file.write_event(_proto.Event(step=first, session_log=start))
    self._flushed = 0.0

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    for name, value in scalars.items():
      if name == "time/unix":  # TensorBoard has its own times.
        continue
      scalar = _scalar_summary(name, value)
      event = _proto.Event(wall_time=time.time(), step=step, summary=scalar)
      self._file.write_event(event)
    if time.monotonic() > self._flushed + 60:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()


_LOSSES = ("train/loss", METRIC)  # what is shown of each of several students
_SHOWN = {
  "train/loss": "loss {:.4f}",
  "train/kl_qq": "qq {:.3f}",
  "train/kl_kk": "kk {:.3f}",
  "train/kl_vv": "vv {:.3f}",
  "train/hidden": "hidden {:.3f}",
  "train/learning_rate": "lr {:.1e}",
  "perf/tokens_per_second": "{:,.0f} tok/s",
  "perf/input_wait": "wait {:.0%}",
  METRIC: "eval {:.4f}",
}


def _shown(
  scalars: Mapping[str, Mapping[str, float | int]], *, several: bool
) -> str:
  """Returns some scalars of a step in one line; of several students, less."""
  first = next(iter(scalars.values()), {})
  if not several:
    return _line(first, _SHOWN)
  losses = [
    _line(own, {name: f"{student} {_SHOWN[name]}" for name in _LOSSES})
    for student, own in scalars.items()
  ]
  speed = {n: text for n, text in _SHOWN.items() if n.startswith("perf/")}
  return " ".join(text for text in [*losses, _line(first, speed)] if text)


def _line(scalars: Mapping[str, float | int], texts: Mapping[str, str]) -> str:
  return " ".join(
    text.format(scalars[name])
    for name, text in texts.items()
    if name in scalars
  )
