"""Sessions of onnxruntime, on the CPU; nothing here needs JAX."""

import concurrent.futures
import ctypes
import dataclasses
import importlib
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from time_jax.core.errors import RunError, UserError, first_line
from time_jax.core.storage.paths import Path

# Names of onnxruntime's.
SPINNING = "session.intra_op.allow_spinning"
NO_DENORMALS = "session.set_denormal_as_zero"
# What a container may use of the cores: microseconds, in how many of them.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SLOWER = ["SkipLayerNormFusion"]


class _Worker:
  """The thread that opens and runs all sessions: see `open_session`."""

  def __init__(self) -> None:
    """Lets a process that is forked later have a thread of its own."""
    self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
    self._start()
    if hasattr(os, "register_at_fork"):
      os.register_at_fork(after_in_child=self._start)

  def _start(self) -> None:
    # The end of a session waits for its threads, which a forked process does
    # not have: there it must never end.
    for session in self._opened:
      ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    self._opened.clear()
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "onnxruntime")

  def open(self, make: Callable[..., Any], *call: Any, **named: Any) -> Any:
    """Returns a session that a function makes of arguments."""
    session = self._thread.submit(make, *call, **named).result()
    self._opened.add(session)
    return session

  def submit(
    self, run: Callable[..., Any], *call: Any
  ) -> concurrent.futures.Future[Any]:
    """Calls a function with arguments, after what was submitted before."""
    return self._thread.submit(run, *call)


_WORKER = _Worker()


def require(*names: str) -> list[Any]:
  """Imports optional packages; raises UserError how to install them."""
  try:
    return [importlib.import_module(name) for name in names]
  except ModuleNotFoundError as error:
    raise UserError(
      f"{error.name} is not installed, and ONNX needs it: pip install -e "
      "'.[onnx]' in the repository."
    ) from error
  except ImportError as error:
    raise UserError(
      f"{' or '.join(names)} cannot be imported, and ONNX needs it: "
      f"{first_line(error)} Install it again: pip install --force-reinstall "
      "onnx onnxruntime."
    ) from error


@dataclasses.dataclass(frozen=True)
class Session:
  """A graph that is ready to run; any thread may run it.

  Attributes:
    own: onnxruntime's `InferenceSession`.
    process: number of the process that opened it. A process that forks leaves
      its threads behind, without which nothing would ever be computed.
  """

  own: Any
  process: int

  @property
  def inputs(self) -> list[str]:
    """The names of its inputs, in the order of the graph."""
    return [each.name for each in self.own.get_inputs()]

  def start(
    self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]
  ) -> concurrent.futures.Future[list[np.ndarray]]:
    """Starts to compute outputs of the graph, after what was started before.

    Args:
      outputs: their names.
      feeds: name of an input -> its array.

    Raises:
      RunError: this process was forked off the one that opened it.
    """
    if os.getpid() != self.process:
      raise RunError(
        "a model was opened before this process was forked, and its threads "
        "are not here; open it in each process, or start them by spawn."
      )
    return _WORKER.submit(self.own.run, outputs, feeds)

  def run(
    self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]
  ) -> list[np.ndarray]:
    """Returns outputs of the graph; see `start`."""
    return self.start(outputs, feeds).result()


def open_session(model: Path | bytes) -> Session:
  """Opens a graph in onnxruntime, on the CPU.

  It computes on the cores that this process may use: on its own onnxruntime
  starts a thread for every core of the machine.

  Args:
    model: a file, or the content of one.

  Raises:
    UserError: onnxruntime is not installed.
  """
  (runtime,) = require("onnxruntime")
  options = runtime.SessionOptions()
  options.log_severity_level = 3  # Errors alone.
  options.intra_op_num_threads = _cores()
  # Threads that have nothing to do would spin, on the cores that another
  # session and Python need: of a model of two graphs it was the larger part
  # of the CPU time for a sentence.
  options.add_session_config_entry(SPINNING, "0")
  # Its softmax gives what is masked 4e-39, not 0. Processors are slow with
  # numbers so near to 0, if threads do not take them for 0: of rows that
  # several sentences share it was a fifth of the time. The thread that opens
  # the first session is set so, too, for as long as it lives; hence one that
  # is used for nothing else.
  options.add_session_config_entry(NO_DENORMALS, "1")
  source = model if isinstance(model, bytes) else str(model)
  opened = _WORKER.open(
    runtime.InferenceSession,
    source,
    options,
    providers=["CPUExecutionProvider"],
    # It makes one node of a sum and LayerNorm, which takes longer than both.
    disabled_optimizers=_SLOWER,
  )
  return Session(opened, os.getpid())


def _cores() -> int:
  """Returns how many cores this process may use."""
  present = os.cpu_count() or 1
  if hasattr(os, "sched_getaffinity"):
    present = len(os.sched_getaffinity(0))
  return max(min(present, _quota()), 1)


def _quota() -> int:
  """Returns how many cores' time a container gives, rounded up."""
  try:
    allowed, period = _QUOTA.read_text(encoding="ascii").split()
    return -(-int(allowed) // int(period))
  except (OSError, ValueError):  # No such file, or "max": all of it.
    return sys.maxsize
