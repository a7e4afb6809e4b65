"""What the processes of a run, once joined, tell each other.

Every function must be called by all processes, in the same order.
"""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src import distributed as runtime
from jax.experimental import multihost_utils

from time_jax.core.errors import RestartableError, RunError, UserError
from time_jax.core.storage.paths import Path, delete

_ERRORS = (UserError, RestartableError, RunError)  # subclasses first


def barrier(name: str) -> None:
  """Returns when all processes have called it, however long that takes.

  Nobody waits on a device, and signals are heard meanwhile.

  Args:
    name: name of the barrier; each is used once.
  """
  if jax.process_count() == 1:
    return
  client: Any = runtime.global_state.client
  keys = [f"time_jax.barrier.{name}-{i}" for i in range(jax.process_count())]
  client.key_value_set(keys[jax.process_index()], "done")
  for key in keys:
    while True:
      try:
        client.blocking_key_value_get(key, 1000)
        break
      except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
          raise


def broadcast(number: int) -> int:
  """Returns the number of process 0 in all processes."""
  if jax.process_count() == 1:
    return number
  mine = np.asarray(number, np.int32)
  return int(multihost_utils.broadcast_one_to_all(mine))


def all_gather(text: str) -> list[str]:
  """Returns the texts of all processes, in their order."""
  if jax.process_count() == 1:
    return [text]
  mine = np.frombuffer(text.encode(), np.uint8)
  gather = multihost_utils.process_allgather
  sizes = np.ravel(gather(np.asarray([mine.size])))
  rows = gather(np.pad(mine, (0, sizes.max() - mine.size)))
  return [
    bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)
  ]


def run_on_first(work: Callable[[], str]) -> str:
  """Does something in process 0 alone; all processes get what came of it.

  Args:
    work: returns a text that is short enough to be sent around.

  Returns:
    That text, in all processes.

  Raises:
    UserError: in all processes, if `work` raised it in process 0; so are
      RunError and RestartableError.
  """
  if jax.process_count() == 1:
    return work()
  outcome, problem = ["", ""], None
  if jax.process_index() == 0:
    try:
      outcome[1] = work()
    except _ERRORS as error:
      kind = next(k for k in _ERRORS if isinstance(error, k))
      outcome, problem = [kind.__name__, str(error)], error
  name, text = json.loads(all_gather(json.dumps(outcome))[0])
  for kind in _ERRORS:
    if kind.__name__ == name:
      raise kind(text) from problem
  return text


def check_shared(folder: Path) -> None:
  """Proves that all processes see one folder, by a file that process 0 writes.

  Args:
    folder: folder of the run, which exists.

  Raises:
    UserError: in all processes, if one of them does not see the file.
  """
  if jax.process_count() == 1:
    return
  mark = folder / f".shared-{broadcast(time.time_ns() % 2**31)}"
  first = jax.process_index() == 0
  if first:
    with contextlib.suppress(OSError):
      mark.touch()
  multihost_utils.sync_global_devices("time_jax.check_shared")
  seen = multihost_utils.process_allgather(np.asarray([mark.exists()]))
  if first:
    delete(mark)
  blind = [i for i, sees in enumerate(np.ravel(seen)) if not sees]
  if blind:
    raise UserError(
      f"processes {blind} do not see what process 0 writes to {folder}; "
      "expected a --workdir on a file system that all hosts share (NFS, "
      "Filestore, Lustre)."
    )
