"""A roll call of the processes of a run, before JAX connects them.

JAX waits for all of them, too, but aborts when one never comes, without a word
about which. So process 0 first counts who reports, says who is missing, and
then leaves the port to JAX.
"""

import time

from time_jax.core.errors import RestartableError, UserError
from time_jax.core.notes import say
from time_jax.parallel.coordinator_port import (
  RETRY_AFTER,
  Hello,
  Listener,
  Outcome,
  Reminder,
  ask,
)
from time_jax.parallel.launcher_env import ProcessSpec

RUN = "run"  # the purpose of a roll call, see `coordinator_port`
_HANGING_UP = 5.0  # seconds that all have to acknowledge the verdict
_GO, _REFUSED, _FAILED = "go", "refused", "failed"


def meet(spec: ProcessSpec, timeout: float, refusal: str = "") -> None:
  """Returns when all processes of a run have called it.

  Args:
    spec: this process.
    timeout: seconds to wait.
    refusal: the reason why process 0 refuses the run, which all raise; empty:
      it does not refuse.

  Raises:
    RestartableError: some processes did not come, or process 0 cannot be
      reached.
    UserError: two processes have one index, or do not agree on their number;
      or process 0 refuses.
  """
  if spec.num_processes == 1:
    return
  if spec.process_id:
    _report(spec, timeout)
    return
  with Listener(spec, RUN) as listener:
    try:
      _call_roll(listener, spec, timeout)
    except (RestartableError, UserError) as error:
      listener.tell([_FAILED, str(error)])
      raise
    listener.tell([_REFUSED, refusal] if refusal else [_GO, ""])
    with listener.changed:  # They hang up first: the port is free for JAX.
      listener.changed.wait_for(lambda: not listener.present, _HANGING_UP)


def _call_roll(listener: Listener, spec: ProcessSpec, timeout: float) -> None:
  """Process 0: waits until all the others are there."""
  deadline, reminder = time.monotonic() + timeout, Reminder()
  while True:
    with listener.changed:
      _check_agreement(list(listener.present.values()), spec.num_processes)
      here = {hello.index for hello in listener.present.values()}
      missing = [i for i in range(1, spec.num_processes) if i not in here]
      if not missing:
        return
      remaining = deadline - time.monotonic()
      if remaining > 0:
        listener.changed.wait(min(remaining, 1))
    some = ", ".join(map(str, missing[:12]))
    some += f" and {len(missing) - 12} more" if len(missing) > 12 else ""
    if remaining <= 0:
      raise RestartableError(
        f"processes {some} of {spec.num_processes} did not report to "
        f"{spec.coordinator_address} within {timeout:.0f} s ({spec.launcher}); "
        "start the command on all hosts, and look into the logs of those."
      )
    if reminder.is_due():
      say(f"waiting for processes {some}, {remaining:.0f} s more")


def _check_agreement(hellos: list[Hello], processes: int) -> None:
  """Raises UserError where processes contradict each other."""
  known: dict[int, str] = {}
  for hello in hellos:
    if hello.of != processes or not 0 < hello.index < processes:
      raise UserError(
        f"{hello.who} calls itself process {hello.index} of {hello.of}, but "
        f"process 0 was told that there are {processes}; expected the same "
        "number, and indices from 0, for all."
      )
    if hello.index in known:
      raise UserError(
        f"{known[hello.index]} and {hello.who} both call themselves process "
        f"{hello.index}; expected an index of its own for each."
      )
    known[hello.index] = hello.who


def _report(spec: ProcessSpec, timeout: float) -> None:
  """Another process: reports to process 0, and waits for its verdict."""
  deadline, reminder = time.monotonic() + timeout, Reminder()
  while True:
    remaining = deadline - time.monotonic()
    # Process 0 ends by its own deadline, which may be a little later.
    outcome, text = ask(spec, RUN, max(remaining, 1) + 30)
    if outcome == Outcome.ANSWERED:
      verdict, reason = text
      if verdict == _GO:
        return
      raise (UserError if verdict == _REFUSED else RestartableError)(reason)
    if outcome == Outcome.OTHER_PURPOSE:
      text = f"it does another command: {text}"
    if remaining <= 0:
      raise RestartableError(
        f"process {spec.process_id} of {spec.num_processes} could not reach "
        f"process 0 at {spec.coordinator_address} within {timeout:.0f} s "
        f"({text}); is it running, and may hosts reach each other at that port?"
      )
    if reminder.is_due():
      say(f"process 0 at {spec.coordinator_address} is not there yet: {text}")
    time.sleep(RETRY_AFTER)
