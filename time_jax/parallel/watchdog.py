"""Ends a run that makes no steps any more, and shows where it hangs."""

import faulthandler
import os
import sys
import threading

from time_jax.core.errors import EXIT_PREEMPTED


class Watchdog:
  """Ends the process unless it hears `beat` often enough. A context manager.

  A process that waits for another one, which is stopped or whose network is
  gone, would wait for ever: it lives, so nobody else finds out. The stacks of
  all threads go to stderr; the exit code is the one that launchers start again
  after.
  """

  def __init__(self, seconds: float) -> None:
    """Starts to watch.

    Args:
      seconds: that may pass between two beats; 0: any number.
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
    """Says that the run goes on."""
    self._beats += 1

  def _watch(self) -> None:
    pause = min(self._seconds / 10, 10)
    silent, seen = 0.0, self._beats
    while not self._over.wait(pause):
      # Not by the clock: this process may have been stopped itself meanwhile.
      silent = silent + pause if self._beats == seen else 0.0
      seen = self._beats
      if silent >= self._seconds:
        self._end()

  def _end(self) -> None:
    faulthandler.dump_traceback(all_threads=True)
    print(
      f"time_jax: error: no step for {self._seconds:,.0f} s (train.watchdog); "
      "above is what each thread does. Another process may hang: look into the "
      "other logs. Start the same command again.",
      file=sys.stderr,
      flush=True,
    )
    # Nothing that waits can hold it up, as it could hold up an exception.
    os._exit(EXIT_PREEMPTED)
