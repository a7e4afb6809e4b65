"""onnxruntime on the CPU: sessions, and graphs in 8 bits."""

import logging
import os
from typing import Any

from time_jax.core.storage.paths import Path
from time_jax.hf.onnx_graph import require


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
  source = model if isinstance(model, bytes) else str(model)
  return runtime.InferenceSession(
    source, options, providers=["CPUExecutionProvider"]
  )


def _cores() -> int:
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def write_int8(path: Path, target: Path, *, large: bool) -> None:
  """Writes a graph with its weights in 8 bits, a scale for every column.

  Activations get a scale for each array that is computed, so what is
  computed for a row depends on the rows beside it.

  Args:
    path: file of the graph.
    target: file of the one in 8 bits.
    large: whether weights lie beside the graph; see `onnx_graph.is_large`.

  Raises:
    UserError: onnxruntime is not installed.
  """
  (quantization,) = require("onnxruntime.quantization")
  before = logging.root.manager.disable
  logging.disable(logging.WARNING)  # Advice on graphs of other tools.
  try:
    quantization.quantize_dynamic(
      path,
      target,
      per_channel=True,
      weight_type=quantization.QuantType.QInt8,
      use_external_data_format=large,
    )
  finally:
    logging.disable(before)
