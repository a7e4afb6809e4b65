"""A trace of some steps of a run, for TensorBoard's profiler or Perfetto."""

import re

import jax

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path


def read_window(text: str, num_steps: int) -> range:
  """Reads the steps that --profile=START:STOP means; STOP is not one of them.

  Args:
    text: value of --profile; empty: no step.
    num_steps: steps of the run, which count from 1.

  Returns:
    The steps to trace.

  Raises:
    UserError: the run has no such steps.
  """
  if not text:
    return range(0)
  match = re.fullmatch(r"(\d+):(\d+)", text)
  window = range(int(match[1]), int(match[2])) if match else range(0)
  if not window or window.start < 1 or window.stop > num_steps + 1:
    raise UserError(
      f"--profile={text} is no window of steps; expected START:STOP such as "
      "10:15, which traces steps 10 to 14; this run has steps 1 to "
      f"{num_steps}."
    )
  return window


class Tracer:
  """Traces a window of steps; a context manager, which ends an open trace."""

  def __init__(
    self, folder: Path, window: range, first: int, active: bool
  ) -> None:
    """Prepares to trace.

    Args:
      folder: where the trace goes.
      window: steps to trace, see `read_window`.
      first: steps done before this session of the run.
      active: whether this process traces; one is enough.
    """
    self.window = range(max(window.start, first + 1), window.stop)
    self._folder = folder
    self._active = active
    self._running = False

  def __enter__(self) -> "Tracer":
    return self

  def __exit__(self, *exception: object) -> None:
    if self._running:
      jax.profiler.stop_trace()

  def turns(self, step: int) -> bool:
    """Returns whether tracing starts or stops before this step."""
    return bool(self.window) and step in (self.window.start, self.window.stop)

  def turn(self, step: int) -> None:
    """Starts or stops tracing if this step is the one to do so before.

    No step may be under way.

    Args:
      step: the next step.
    """
    if not self._active or not self.turns(step):
      return
    if step == self.window.start:
      jax.profiler.start_trace(self._folder)
    else:
      jax.profiler.stop_trace()
    self._running = step == self.window.start
