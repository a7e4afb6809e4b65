"""Joining the processes of a run, on whatever started them."""

import os
import socket
from typing import Any

import jax
from jax.experimental import multihost_utils

from time_jax.errors import UserError

INITIALIZATION_TIMEOUT = 900  # seconds that processes wait for each other
_VARIABLES = (
  "TIME_JAX_COORDINATOR",
  "TIME_JAX_NUM_PROCESSES",
  "TIME_JAX_PROCESS_ID",
)


def initialize() -> None:
  """Joins the run's processes; call it before anything touches a device.

  In order: TIME_JAX_COORDINATOR (host:port), TIME_JAX_NUM_PROCESSES and
  TIME_JAX_PROCESS_ID if set; the cluster that JAX finds by itself (TPU VM,
  GKE, SLURM, Open MPI); else this process alone. It is initialised even when
  alone: JAX notices SIGTERM, and lets the loop save, only then.

  Raises:
    UserError: only some of the variables are set, or they are not numbers.
  """
  values = [os.environ.get(name) for name in _VARIABLES]
  if any(values):
    _join(*_explicit(values))
  else:
    try:
      _join()
    except jax.errors.JaxRuntimeError:  # A cluster, but it does not work.
      raise
    except (ValueError, RuntimeError):  # Not on a cluster that JAX knows.
      _join(f"localhost:{_free_port()}", 1, 0)
  # On CPU the processes must meet within 30 s at their first collective, and
  # need not afterwards: meet now, before weights are read and compiled for.
  multihost_utils.sync_global_devices("time_jax.distributed.initialize")


def preempted(step: int) -> bool:
  """Whether all processes have agreed to stop after this step (SIGTERM).

  To be asked after every step, by the loop alone, and with rising steps: the
  answer is True at one of them only.
  """
  return multihost_utils.reached_preemption_sync_point(step)


def _join(*where: Any) -> None:
  jax.distributed.initialize(
    *where, initialization_timeout=INITIALIZATION_TIMEOUT
  )


def _explicit(values: list[str | None]) -> tuple[str, int, int]:
  missing = [n for n, v in zip(_VARIABLES, values, strict=True) if not v]
  if missing:
    raise UserError(f"set all of {', '.join(_VARIABLES)}; missing: {missing}.")
  coordinator, count, index = values
  try:
    number, process = int(str(count)), int(str(index))
  except ValueError:
    raise UserError(
      f"TIME_JAX_NUM_PROCESSES={count!r} and TIME_JAX_PROCESS_ID={index!r} "
      "must be integers."
    ) from None
  if not 0 <= process < number:
    raise UserError(
      f"TIME_JAX_PROCESS_ID={process} must be at least 0 and below "
      f"TIME_JAX_NUM_PROCESSES={number}."
    )
  return str(coordinator), number, process


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]
