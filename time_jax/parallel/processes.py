"""Joining the processes of a run, on whatever started them."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax._src import clusters
from jax._src import distributed as runtime
from jax.experimental import multihost_utils

from time_jax.core.errors import (
  EXIT_BUG,
  EXIT_PREEMPTED,
  RestartableError,
  RunError,
  UserError,
  verdict,
  without_secrets,
)
from time_jax.core.storage import lease
from time_jax.parallel import launcher_env, rendezvous
from time_jax.parallel.watchdog import Watchdog

# Alone there is nobody to be heard of; and a process may be suspended for days.
_NEVER = 10**8
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
# What JAX says of errors that a process makes all by itself.
_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
_FAILING_TOGETHER = 15  # seconds between the first and the last of them
_ERRORS = (UserError, RunError, RestartableError)
_failures, _questions = itertools.count(), itertools.count(1)


def initialize() -> launcher_env.Place:
  """Joins the run's processes, and leaves SIGTERM to `preempted`.

  What happens between the two parts of it, `join` and `hear_signals`, ends by
  SIGTERM as any command does.
  """
  place = join()
  hear_signals()
  return place


def join() -> launcher_env.Place:
  """Joins the run's processes; call it before anything touches a device.

  What `cluster.find` reads from the environment; else what JAX finds by asking
  (Cloud TPU VMs, Kubernetes); else this process alone. It is initialised even
  when alone: JAX notices SIGTERM, and lets the loop save, only then. They wait
  for each other TIME_JAX_TIMEOUT seconds (900), take one for dead that has not
  been heard of for TIME_JAX_HEARTBEAT (100), and wait TIME_JAX_SHUTDOWN (300)
  for all to end.

  Returns:
    Where this process stands among them.

  Raises:
    UserError: the environment is wrong or incomplete.
    RestartableError: processes are missing.
  """
  timeout, heartbeat, shutdown = check_settings()
  place = _find(timeout)
  if place.processes == 1:
    place = dataclasses.replace(place, coordinator=f"localhost:{_free_port()}")
    heartbeat = _NEVER
  else:
    print(
      f"process {place.index} of {place.processes} ({place.launcher}), "
      f"coordinator {place.coordinator}",
      file=sys.stderr,
      flush=True,
    )
    _bypass_proxy(place.coordinator.rpartition(":")[0])
  rendezvous.meet(place, timeout)
  with _deaf():
    jax.distributed.initialize(
      **place.arguments(),
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=heartbeat,
      shutdown_timeout_seconds=shutdown,
    )
  # On CPU the processes must meet within 30 s at their first collective, and
  # need not afterwards: meet now, before weights are read and compiled for.
  multihost_utils.sync_global_devices("time_jax.parallel.processes.initialize")
  return place


def check_settings() -> list[int]:
  """What the environment says of how long processes wait for each other.

  Returns:
    The seconds of TIME_JAX_TIMEOUT, TIME_JAX_HEARTBEAT, TIME_JAX_SHUTDOWN.

  Raises:
    UserError: one is no such number.
  """
  return [launcher_env.seconds(name) for name in launcher_env.LIMITS]


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Generator[None, None, None]:
  """Lets one run at a time write to a workdir; `join` or `meet` comes next.

  Process 0 holds the lease. Where it is refused, all processes are, as soon as
  they meet.

  Args:
    workdir: of the run; it is there.

  Raises:
    UserError: another run writes there.
  """
  timeout, *_ = check_settings()
  place = _find(timeout)
  if place.index:
    yield
    return
  with contextlib.ExitStack() as stack:
    held = lease.hold(workdir / lease.RUN, f"--workdir={workdir}")
    try:
      stack.enter_context(held)
    except UserError as error:
      with contextlib.suppress(RestartableError):
        rendezvous.meet(place, timeout, refusal=str(error))
      raise
    yield


def meet() -> None:
  """Returns when all processes are there, which need not join for their work.

  Raises:
    UserError: process 0 was refused the workdir, see `writing`; or the
      environment is wrong.
    RestartableError: processes are missing.
  """
  timeout, *_ = check_settings()
  rendezvous.meet(_find(timeout), timeout)


@contextlib.contextmanager
def _deaf() -> Generator[None, None, None]:
  """Keeps JAX from taking SIGTERM over while processes join."""
  jax.config.update("jax_enable_preemption_service", False)
  try:
    yield
  finally:
    # Whatever JAX was told: `hear_signals` needs it.
    jax.config.update("jax_enable_preemption_service", True)


def hear_signals() -> None:
  """Has JAX note SIGTERM, which ends nothing from here on; see `preempted`."""
  runtime.global_state.initialize_preemption_sync_manager()


def wait_for_all(purpose: str) -> None:
  """Returns when all processes have called it, however long that takes.

  Nobody waits on a device, and signals are heard meanwhile.

  Args:
    purpose: what all have done by then; each is waited for once.
  """
  if jax.process_count() == 1:
    return
  client: Any = runtime.global_state.client
  names = [
    f"time_jax.parallel.processes.{purpose}-{i}"
    for i in range(jax.process_count())
  ]
  client.key_value_set(names[jax.process_index()], "done")
  for name in names:
    while True:
      try:
        client.blocking_key_value_get(name, 1000)
        break
      except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
          raise


def preempted() -> bool:
  """Whether all processes have agreed to stop here (SIGTERM).

  To be asked by the loop alone, by all processes at the same places: after
  every step, and within what takes longer. The answer is True once only.
  """
  # JAX agrees on a number, which must rise.
  return multihost_utils.reached_preemption_sync_point(next(_questions))


def check_shared(folder: pathlib.Path) -> None:
  """Proves that all processes see one folder, by a file of process 0.

  Raises:
    UserError: in all of them, when one does not.
  """
  if jax.process_count() == 1:
    return
  mark = folder / f".shared-{of_first(time.time_ns() % 2**31)}"
  first = jax.process_index() == 0
  with contextlib.suppress(OSError):
    if first:
      mark.touch()
  multihost_utils.sync_global_devices(
    "time_jax.parallel.processes.check_shared"
  )
  seen = multihost_utils.process_allgather(np.asarray([mark.exists()]))
  with contextlib.suppress(OSError):
    if first:
      mark.unlink()
  blind = [i for i, sees in enumerate(np.ravel(seen)) if not sees]
  if blind:
    raise UserError(
      f"processes {blind} do not see what process 0 writes to {folder}; "
      "expected a --workdir on a file system that all hosts share (NFS, "
      "Filestore, Lustre)."
    )


def of_first(number: int) -> int:
  """What process 0 calls it with; all processes must call it."""
  if jax.process_count() == 1:
    return number
  mine = np.asarray(number, np.int32)
  return int(multihost_utils.broadcast_one_to_all(mine))


def of_all(text: str) -> list[str]:
  """What each process calls it with, in their order; all must call it."""
  if jax.process_count() == 1:
    return [text]
  mine = np.frombuffer(text.encode(), np.uint8)
  gather = multihost_utils.process_allgather
  sizes = np.ravel(gather(np.asarray([mine.size])))
  rows = gather(np.pad(mine, (0, sizes.max() - mine.size)))
  return [
    bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)
  ]


def by_first(work: Callable[[], str]) -> str:
  """Does something in process 0 alone; all get what came of it.

  Args:
    work: gives a text, which is short enough to be sent around.

  Returns:
    That text, in all processes; all must call it.

  Raises:
    UserError: in all of them, as process 0 raised it; likewise:
    RunError: and RestartableError.
  """
  if jax.process_count() == 1:
    return work()
  outcome, problem = ["", ""], None
  if jax.process_index() == 0:
    try:
      outcome[1] = work()
    except _ERRORS as error:
      outcome, problem = [type(error).__name__, str(error)], error
  name, text = json.loads(of_all(json.dumps(outcome))[0])
  for kind in _ERRORS:
    if kind.__name__ == name:
      raise kind(text) from problem
  return text


@contextlib.contextmanager
def together(seconds: float) -> Generator[Watchdog, None, None]:
  """Sees that what all processes do together ends for all, if for one.

  Args:
    seconds: for the `Watchdog`, which is to be told of every step.
  """
  with Watchdog(seconds) as watchdog, ending_with_others():
    yield watchdog


@contextlib.contextmanager
def ending_with_others() -> Generator[None, None, None]:
  """Ends this process at once when it cannot end together with all others.

  Another one is gone (42), or this one has an error that the others have not.
  An exception would first wait for what only all processes can finish: the
  checkpoint being saved, and JAX's own shutdown.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1:
      raise
    reason = str(error).strip().split("\n")[0][:300]
    mine = not isinstance(error, jax.errors.JaxRuntimeError)
    if mine or reason.startswith(_OWN_FAULTS):
      if _all_failed():
        raise
      code, text = verdict(error) or (EXIT_BUG, traceback.format_exc().strip())
    else:
      code = EXIT_PREEMPTED
      text = (
        f"process {jax.process_index()} lost another process of the run, whose "
        f"log says more ({reason}); start the same command again."
      )
    text = without_secrets(f"time_jax: error: {text}")
    print(text, file=sys.stderr, flush=True)
    os._exit(code)


def _all_failed() -> bool:
  """Whether all processes come to this within seconds."""
  client: Any = runtime.global_state.client
  name = f"time_jax.parallel.processes.failure-{next(_failures)}"
  try:
    client.wait_at_barrier(name, _FAILING_TOGETHER * 1000)
  except jax.errors.JaxRuntimeError:  # Time is over, or one is gone.
    return False
  return True


def _find(timeout: int) -> launcher_env.Place:
  return launcher_env.find(os.environ) or _asked(timeout)


def _asked(timeout: int) -> launcher_env.Place:
  """The place that JAX finds by asking a cluster; else alone."""
  try:
    address, count, index, devices = (
      clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, timeout
      )
    )
  except Exception as error:  # Of whichever client asks the cluster.
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    raise UserError(
      f"JAX recognises this cluster but cannot ask it who is in the run: "
      f"{reason} Set {', '.join(launcher_env.VARIABLES)}."
    ) from error
  if address is None or count is None or index is None:
    # Each would run alone, and all write to one workdir.
    if os.environ.get("JAX_COORDINATOR_ADDRESS") or _number_of_pod() != "0":
      raise UserError(
        "this is one of several processes, but nothing says how many there "
        f"are; set {', '.join(launcher_env.VARIABLES)}."
      )
    return launcher_env.Place("alone", "", 1, 0)
  mine = None if devices is None else tuple(devices)
  return launcher_env.Place("as JAX found", address, count, index, mine)


def _bypass_proxy(host: str) -> None:
  """Keeps gRPC from reaching the coordinator through a web proxy."""
  if not any(name.lower() in _PROXIES for name in os.environ):
    return
  for name in ("no_proxy", "NO_PROXY"):
    known = os.environ.get(name, "")
    os.environ[name] = f"{known},{host}" if known else host


def _number_of_pod() -> str:
  return os.environ.get("JOB_COMPLETION_INDEX") or "0"


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]
