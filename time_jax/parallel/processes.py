"""Joining the processes of a run, and hearing when one is told to stop."""

import contextlib
import dataclasses
import itertools
import os
import socket
import sys
from collections.abc import Generator

import jax
from jax._src import clusters, xla_bridge
from jax._src import distributed as runtime
from jax.experimental import multihost_utils

from time_jax.core.errors import RestartableError, UserError, first_line
from time_jax.core.notes import note
from time_jax.core.storage import lease
from time_jax.core.storage.paths import Path
from time_jax.parallel import launcher_env, rendezvous
from time_jax.parallel.launcher_env import ProcessSpec

# Seconds without a sign of life after which JAX ends a run of one process:
# it may be suspended for days.
_NEVER = 10**8
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
_questions = itertools.count(1)


def initialize() -> ProcessSpec:
  """Joins the run's processes, and leaves SIGTERM to `preempted`.

  What happens between its two parts, `join` and `hear_signals`, ends by SIGTERM
  as any command does.

  Returns:
    This process among them.
  """
  spec = join()
  hear_signals()
  return spec


def join() -> ProcessSpec:
  """Joins the run's processes; call it before anything touches a device.

  The environment says which processes there are (`launcher_env.detect`); else
  JAX finds it by asking (Cloud TPU VMs, Kubernetes); else this process is
  alone. JAX is initialised even then: only so it notices SIGTERM, and lets the
  loop save. But a process that is alone and uses JAX already, such as a
  notebook, is left as it is: SIGTERM ends it. The processes wait for each other
  TIME_JAX_TIMEOUT seconds (900), take one for dead that has not been heard of
  for TIME_JAX_HEARTBEAT (100), and wait TIME_JAX_SHUTDOWN (300) for all to end.

  Returns:
    This process among them.

  Raises:
    UserError: the environment is wrong or incomplete.
    RestartableError: processes are missing.
  """
  timeout, heartbeat, shutdown = check_timeouts()
  spec = _detect(timeout)
  if spec.num_processes == 1 and xla_bridge.backends_are_initialized():
    if not runtime.global_state.client:  # It is there in a second run.
      note("JAX is in use already, so SIGTERM ends this run without saving.")
    return spec
  if spec.num_processes == 1:
    address = f"localhost:{free_port()}"
    spec = dataclasses.replace(spec, coordinator_address=address)
    heartbeat = _NEVER
  else:
    print(
      f"process {spec.process_id} of {spec.num_processes} ({spec.launcher}), "
      f"coordinator {spec.coordinator_address}",
      file=sys.stderr,
      flush=True,
    )
    _bypass_proxy(spec.coordinator_address.rpartition(":")[0])
  rendezvous.meet(spec, timeout)
  # JAX would take SIGTERM over here already: `hear_signals` does it later, and
  # needs the setting, whatever the user chose.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **spec.arguments(),
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=heartbeat,
      shutdown_timeout_seconds=shutdown,
    )
  finally:
    jax.config.update("jax_enable_preemption_service", True)
  # On CPU the processes must meet within 30 s at their first collective, and
  # need not afterwards: meet now, before weights are read and compiled for.
  multihost_utils.sync_global_devices("time_jax.parallel.processes.initialize")
  return spec


def check_timeouts() -> list[int]:
  """Returns how long the processes wait for each other.

  Returns:
    The seconds of TIME_JAX_TIMEOUT, TIME_JAX_HEARTBEAT, TIME_JAX_SHUTDOWN.

  Raises:
    UserError: one of the variables is no positive whole number.
  """
  return [launcher_env.seconds(name) for name in launcher_env.TIMEOUTS]


@contextlib.contextmanager
def hold_workdir(workdir: Path) -> Generator[None, None, None]:
  """Lets one run at a time write to a workdir; call `join` or `meet` next.

  Process 0 holds the lease. Where it is refused, all processes are, as soon as
  they meet.

  Args:
    workdir: folder of the run, which exists.

  Raises:
    UserError: another run writes there.
  """
  timeout, *_ = check_timeouts()
  spec = _detect(timeout)
  if spec.process_id:
    yield
    return
  with contextlib.ExitStack() as stack:
    held = lease.hold(workdir / lease.RUN, f"--workdir={workdir}")
    try:
      stack.enter_context(held)
    except UserError as error:
      with contextlib.suppress(RestartableError):
        rendezvous.meet(spec, timeout, refusal=str(error))
      raise
    yield


def meet() -> None:
  """Returns when all processes have called it, without joining them.

  Raises:
    UserError: process 0 was refused the workdir, see `hold_workdir`; or the
      environment is wrong.
    RestartableError: processes are missing.
  """
  timeout, *_ = check_timeouts()
  rendezvous.meet(_detect(timeout), timeout)


def hear_signals() -> None:
  """Has JAX note SIGTERM, which ends nothing from here on; see `preempted`."""
  state = runtime.global_state
  if state.client and not state.preemption_sync_manager:  # Else see `join`.
    state.initialize_preemption_sync_manager()


def preempted() -> bool:
  """Returns whether all processes have agreed to stop here, after a SIGTERM.

  The loop alone asks, in all processes at the same places: after every step,
  and within what takes longer. The answer is True only once.
  """
  # JAX agrees on a number, which must rise.
  return multihost_utils.reached_preemption_sync_point(next(_questions))


def _detect(timeout: int) -> ProcessSpec:
  return launcher_env.detect(os.environ) or _ask_jax(timeout)


def _ask_jax(timeout: int) -> ProcessSpec:
  """Returns this process as JAX finds it by asking a cluster, or as alone."""
  try:
    address, count, index, devices = (
      clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, timeout
      )
    )
  except Exception as error:  # Each cluster's client raises its own kinds.
    raise UserError(
      f"JAX recognises this cluster but cannot ask it who is in the run: "
      f"{first_line(error)} Set {', '.join(launcher_env.VARIABLES)}."
    ) from error
  if address is None or count is None or index is None:
    number_of_pod = os.environ.get("JOB_COMPLETION_INDEX") or "0"
    # Each would run alone, and all write to one workdir.
    if os.environ.get("JAX_COORDINATOR_ADDRESS") or number_of_pod != "0":
      raise UserError(
        "this is one of several processes, but nothing says how many there "
        f"are; set {', '.join(launcher_env.VARIABLES)}."
      )
    return ProcessSpec("alone", "", 1, 0)
  own_devices = None if devices is None else tuple(devices)
  return ProcessSpec("as JAX found", address, count, index, own_devices)


def _bypass_proxy(host: str) -> None:
  """Keeps gRPC from reaching the coordinator through a web proxy."""
  if not any(name.lower() in _PROXIES for name in os.environ):
    return
  for name in ("no_proxy", "NO_PROXY"):
    known = os.environ.get(name, "")
    os.environ[name] = f"{known},{host}" if known else host


def free_port() -> int:
  """Returns a port of this machine that nothing listens at just now."""
  with socket.create_server(("localhost", 0)) as free:
    return free.getsockname()[1]
