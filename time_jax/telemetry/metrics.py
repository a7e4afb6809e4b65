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

  A context manager. Only in process 0 it is `active`; in the others its calls
  do nothing.
  """

  def __init__(
    self,
    workdir: Path,
    step: int,
    num_steps: int,
    active: bool,
    tracker: Tracker | None = None,
  ) -> None:
    """Opens the files, and drops records after `step`, which come again.

    Args:
      workdir: folder of the run.
      step: steps done so far.
      num_steps: steps of the whole run.
      active: whether this process writes.
      tracker: service that gets the same scalars, closed with the files; None:
        no service.
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
      # `write` has raised what cannot be written, and it still cannot.
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
    """Records the scalars of a step, and shows some of them to the user.

    Args:
      step: number of the step.
      scalars: metrics by name, such as "train/loss".
    """
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
      self._log_line(step, scalars)

  def _log_line(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Prints progress for a log: at once, and then a line a minute."""
    if time.monotonic() < self._next_line:
      return
    self._next_line = time.monotonic() + _LINE_EVERY
    line = f"step {step} of {self._num_steps}: {_short(scalars)}"
    if rate := scalars.get("perf/steps_per_second"):
      seconds = round((self._num_steps - step) / rate)
      line += f" left {datetime.timedelta(seconds=seconds)}"
    self.say(line)

  def say(self, text: str) -> None:
    """Prints a line in process 0, without tearing the bar."""
    if self._active:
      tqdm.tqdm.write(text, file=sys.stderr)
      sys.stderr.flush()


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
