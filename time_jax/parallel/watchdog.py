"""Ends a run that makes no steps any more, and shows where it hangs."""

import faulthandler
import os
import threading

from time_jax.core.errors import EXIT_PREEMPTED
from time_jax.core.notes import say


class Watchdog:
  """Ends the process unless `beat` is called often enough. A context manager.

  A process that waits for another one, which is stopped or whose network is
  gone, would wait for ever: it lives, so nobody else finds out. The stacks of
  all threads go to stderr, and the exit code is 42, after which launchers start
  the command again.
  """

  def __init__(self, seconds: float) -> None:
    """Starts to watch.

    Args:
      seconds: longest time between two beats; 0: no limit.
    """
    self._seconds = seconds
    self._beats = 0
    self._over = threading.Event()
    if seconds:
      threading.Thread(target=self._watch, daemon=True).start()

  def __enter__(self) -> "Watchdog":
    return self

  def __exit__(self, *error: object) -> None:
    self._over.set()

  def beat(self) -> None:
    """Notes that the run makes progress."""
    self._beats += 1

  def _watch(self) -> None:
    pause = min(self._seconds / 10, 10)
    silent, last_beats = 0.0, self._beats
    while silent < self._seconds:
      if self._over.wait(pause):
        return
      # Not by the clock: this process may have been stopped itself meanwhile.
      silent = silent + pause if self._beats == last_beats else 0.0
      last_beats = self._beats
    faulthandler.dump_traceback(all_threads=True)
    say(
      f"error: no step for {self._seconds:,.0f} s (train.watchdog); "
      "above is what each thread does. Another process may hang: look into the "
      "other logs. Start the same command again."
    )
    # Nothing that waits can hold it up, as it could hold up an exception.
    os._exit(EXIT_PREEMPTED)
