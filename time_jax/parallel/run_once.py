"""Commands that one process runs for all that a launcher started.

Such a command writes a folder that all processes see, and needs no JAX of
several hosts. So the processes do not join: process 0 runs the command, and the
others wait at the coordinator's address, which no run uses meanwhile, for its
exit code. `coordinator_port` has the lines that they exchange.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence

from time_jax.core.errors import (
  EXIT_BUG,
  EXIT_INTERRUPTED,
  EXIT_PIPE,
  EXIT_PREEMPTED,
  RestartableError,
  Stopped,
  UserError,
)
from time_jax.core.notes import say
from time_jax.parallel import launcher_env
from time_jax.parallel.coordinator_port import (
  RETRY_AFTER,
  Listener,
  Outcome,
  Reminder,
  ask,
)
from time_jax.parallel.launcher_env import ProcessSpec
from time_jax.parallel.rendezvous import RUN

_FIRST_SAID = 3.0  # seconds of waiting without a word
_AFTER_A_BUG = 30.0  # seconds that process 0 waits for late ones after a bug
_AFTER_A_SIGNAL = 5.0  # seconds that it waits for them when told to stop
# What somebody types in one pod or node who does not mean all of them.
_ALONE = " ".join(
  f"{name}={value}"
  for name, value in zip(
    launcher_env.VARIABLES, ("localhost:1", 1, 0), strict=True
  )
)


def run_once(
  work: Callable[[], int],
  arguments: Sequence[str] = (),
  patience: float | None = None,
) -> int:
  """Runs a command in process 0; all processes end with its exit code.

  A process that no launcher started runs it itself. So does one that finds
  something else at the coordinator's address, such as the run whose pod or node
  it was started in by hand.

  Args:
    work: runs the command, prints what is wrong, and returns the exit code.
    arguments: the command line, which must be the same for all.
    patience: seconds that process 0 and the others wait for each other;
      TIME_JAX_TIMEOUT by default.

  Returns:
    The exit code.

  Raises:
    RestartableError: process 0 does not come, or ended too early.
    UserError: process 0 runs another command.
  """
  spec = _this_process()
  if spec is None or spec.num_processes == 1:
    return work()
  if patience is None:
    patience = launcher_env.seconds("TIME_JAX_TIMEOUT")
  # A hash, as the command line may hold secrets.
  command = json.dumps([spec.num_processes, *arguments])
  purpose = f"command {hashlib.sha256(command.encode()).hexdigest()[:16]}"
  if spec.process_id:
    code = _wait_for_first(spec, purpose, patience)
    return work() if code is None else code
  if "TPU" in spec.launcher:  # The hosts of a slice open their TPUs together.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  try:
    listener = Listener(spec, purpose)
  except RestartableError:  # A run holds the port, as the others will find.
    return work()
  with listener:
    try:
      code = work()
    except BaseException as error:
      code = EXIT_PIPE if isinstance(error, BrokenPipeError) else EXIT_BUG
      _tell(listener, spec, code, min(patience, _AFTER_A_BUG))
      raise
    if code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
      patience = min(patience, _AFTER_A_SIGNAL)
    _tell(listener, spec, code, patience)
    return code


def _this_process() -> ProcessSpec | None:
  """Returns this process among those that a launcher started; None: alone."""
  try:
    return launcher_env.detect(os.environ)
  except UserError:
    if any(os.environ.get(name) for name in launcher_env.VARIABLES):
      raise
    return None  # A shell inside of a job, which srun did not start.


def _tell(
  listener: Listener, spec: ProcessSpec, code: int, patience: float
) -> None:
  """Process 0: tells the others the exit code, and waits for late ones.

  The wait ends by a signal, and when a run that starts needs the port.
  """
  deadline, reminder = time.monotonic() + patience, Reminder(_FIRST_SAID)
  with contextlib.suppress(KeyboardInterrupt, Stopped):
    listener.tell(code)
    while (remaining := deadline - time.monotonic()) > 0:
      with listener.changed:
        late = sorted({*range(1, spec.num_processes)} - listener.heard)
        port_is_wanted = RUN in listener.other_purposes
        if not late or (port_is_wanted and not listener.present):
          return
        listener.changed.wait(min(remaining, _FIRST_SAID))
      if reminder.is_due():
        say(
          f"the command is over (exit code {code}); waiting up to "
          f"{remaining:.0f} s for processes {', '.join(map(str, late))} of "
          f"{spec.num_processes} ({spec.launcher}), to tell them. Where they "
          f"were not started, end this by Ctrl-C, and type {_ALONE} before "
          "such a command."
        )


def _wait_for_first(
  spec: ProcessSpec, purpose: str, patience: float
) -> int | None:
  """Returns the exit code of process 0; None if a run is there instead."""
  deadline, reminder = time.monotonic() + patience, Reminder(_FIRST_SAID)
  address = spec.coordinator_address
  while True:
    outcome, text = ask(spec, purpose)
    if outcome == Outcome.ANSWERED:
      if code := int(text):
        say(f"process 0 ended with exit code {code}; its log says why.")
      return code
    if outcome == Outcome.GONE:
      raise RestartableError(
        "process 0 was gone before its command ended; its log says more."
      )
    if outcome == Outcome.STRANGER or text == RUN:
      return None
    if outcome == Outcome.OTHER_PURPOSE:
      raise UserError(
        f"process 0 at {address} does another command; expected the same for "
        f"all processes: type {_ALONE} before this one to do it here."
      )
    if time.monotonic() > deadline:
      raise RestartableError(
        f"process 0, which does this for all {spec.num_processes} processes, "
        f"could not be reached at {address} within {patience:.0f} s ({text})."
      )
    if reminder.is_due():
      say(
        f"process {spec.process_id} of {spec.num_processes} ({spec.launcher}) "
        f"waits for process 0 at {address}, which does this for all ({text}). "
        f"Where it was not started, type {_ALONE} before the command to do it "
        "here."
      )
    time.sleep(RETRY_AFTER)
