"""Sessions of onnxruntime, on the CPU."""

import os
from typing import Any

from time_jax.core.storage.paths import Path
from time_jax.hf.onnx_graph import require

SPINNING = "session.intra_op.allow_spinning"  # a name of onnxruntime's


def open_session(model: Path | bytes) -> Any:
  """Opens a graph in onnxruntime, on the CPU.

  It computes on the cores that this process may use: on its own onnxruntime
  starts a thread for every core of the machine.

  Args:
    model: a file, or the content of one.

  Returns:
    An `onnxruntime.InferenceSession`.

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
  source = model if isinstance(model, bytes) else str(model)
  return runtime.InferenceSession(
    source, options, providers=["CPUExecutionProvider"]
  )


def _cores() -> int:
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
