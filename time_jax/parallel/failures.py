"""Ends all processes of a run where one fails or hangs."""

import contextlib
import itertools
import os
import traceback
from collections.abc import Generator
from typing import Any

import jax
from jax._src import distributed as runtime

from time_jax.core.errors import (
  EXIT_BUG,
  EXIT_PREEMPTED,
  exit_status,
)
from time_jax.core.notes import say
from time_jax.parallel.watchdog import Watchdog

# How JAX begins errors that a process makes all by itself.
_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
_FAILING_TOGETHER = 15  # seconds between the first and the last of them
_failures = itertools.count()


@contextlib.contextmanager
def supervise(seconds: float) -> Generator[Watchdog, None, None]:
  """Ends this process if the run hangs, or if another process fails.

  Args:
    seconds: longest time without a step, see `Watchdog`; 0: no limit.

  Yields:
    The watchdog, whose `beat` is to be called after every step.
  """
  with Watchdog(seconds) as watchdog, fail_together():
    yield watchdog


@contextlib.contextmanager
def fail_together() -> Generator[None, None, None]:
  """Exits at once on an error that not all processes have.

  Either another process is gone (exit code 42), or this one has an error that
  the others have not. An exception would first wait for what only all processes
  can finish: the checkpoint being saved, and JAX's own shutdown. An error of
  all processes is raised as usual.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1:
      raise
    reason = str(error).strip().split("\n")[0][:300]
    from_elsewhere = isinstance(error, jax.errors.JaxRuntimeError)
    if from_elsewhere and not reason.startswith(_OWN_FAULTS):
      code = EXIT_PREEMPTED
      text = (
        f"process {jax.process_index()} lost another process of the run, whose "
        f"log says more ({reason}); start the same command again."
      )
    elif _all_failed():
      raise
    else:
      bug = EXIT_BUG, traceback.format_exc().strip()
      code, text = exit_status(error) or bug
    say(f"error: {text}")
    os._exit(code)


def _all_failed() -> bool:
  """Returns whether all processes fail within some seconds of each other."""
  client: Any = runtime.global_state.client
  name = f"time_jax.failure-{next(_failures)}"
  try:
    client.wait_at_barrier(name, _FAILING_TOGETHER * 1000)
  except jax.errors.JaxRuntimeError:  # Time is over, or a process is gone.
    return False
  return True
