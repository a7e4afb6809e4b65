"""ONNX files of a student, each measured against JAX before it is kept."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from time_jax.core.errors import RunError
from time_jax.hf import onnx_graph
from time_jax.release import fingerprint
from time_jax.run.saved_student import Student

FOLDER = "onnx"
# The names by which transformers.js looks for them; exports of before have
# model_int8.onnx, which `verify` reads by the record beside it.
PLAIN, INT8 = "model.onnx", "model_quantized.onnx"
TOLERANCE = 1e-4  # of hidden states in float32, of their largest value above 1
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


def write_onnx(
  folder: pathlib.Path, student: Student, looked_at: fingerprint.Probe
) -> list[tuple[str, str]]:
  """Writes onnx/model.onnx, and its int8 twin, and measures both.

  Args:
    folder: of the export.
    student: float32.
    looked_at: rows to compare on.

  Returns:
    (file, what was found) of each.

  Raises:
    UserError: onnx or onnxruntime is not installed.
    RunError: onnxruntime and JAX differ.
  """
  target = folder / FOLDER
  target.mkdir()
  onnx_graph.save_onnx(target / PLAIN, student.config, student.params)
  write_int8(
    target / PLAIN, target / INT8, large=onnx_graph.is_large(student.params)
  )
  for path in target.iterdir():
    path.chmod(0o644)  # Weights beside a file are written as private.
  batch = looked_at.batch()
  real = np.asarray(batch.segment_ids) > 0
  states = fingerprint.hidden_states(student.encoder, student.params, batch)
  expected = states[-1][real]
  tokens = np.asarray(batch.tokens)
  found = load_onnx(target / PLAIN)(tokens, real)[real]
  difference = float(np.abs(found - expected).max())
  if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
    raise RunError(
      f"onnxruntime differs from JAX by {difference:.2e}, expected at most "
      f"{TOLERANCE}."
    )
  # Rounding is judged by real text: random ids are of rare words.
  some = slice(0, len(looked_at.texts) or None)
  rough = load_onnx(target / INT8)(tokens[some], real[some])[real[some]]
  exact, what = (
    states[-1][some][real[some]],
    "text" if looked_at.texts else "ids",
  )
  return [
    (
      f"{FOLDER}/{PLAIN}",
      f"onnxruntime equals JAX within {difference:.1e}; "
      f"{_size(target / PLAIN)}, opset {onnx_graph.OPSET}",
    ),
    (
      f"{FOLDER}/{INT8}",
      f"{_error(exact, rough)} on {len(exact)} tokens of {what}; "
      f"{_size(target / INT8)}",
    ),
  ]


def write_int8(
  path: pathlib.Path, target: pathlib.Path, *, large: bool
) -> None:
  """Writes a graph again, its weights in 8 bits, a scale for every column.

  Args:
    path: of the graph.
    target: gets the other.
    large: whether weights lie beside the graph; see `onnx_graph.is_large`.

  Raises:
    UserError: onnxruntime is not installed.
  """
  (quantization,) = onnx_graph.require("onnxruntime.quantization")
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


def load_onnx(path: pathlib.Path) -> Run:
  """Opens a file in onnxruntime on the CPU: (tokens, mask) -> (B, T, D)."""
  (runtime,) = onnx_graph.require("onnxruntime")
  options = runtime.SessionOptions()
  options.log_severity_level = 3  # Errors alone.
  session: Any = runtime.InferenceSession(
    str(path), options, providers=["CPUExecutionProvider"]
  )

  def run(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    feeds = dict(zip(onnx_graph.INPUTS, (tokens, mask), strict=True))
    int64 = {name: np.asarray(x, np.int64) for name, x in feeds.items()}
    return session.run([onnx_graph.OUTPUT], int64)[0]

  return run


def _error(expected: np.ndarray, found: np.ndarray) -> str:
  """What rounding to int8 costs, over tokens."""
  norms = np.linalg.norm(expected, axis=-1), np.linalg.norm(found, axis=-1)
  cosine = (expected * found).sum(-1) / (norms[0] * norms[1])
  relative = np.linalg.norm(found - expected, axis=-1) / norms[0]
  return (
    f"int8: error {relative.mean():.1%} of a vector's length on average, "
    f"{relative.max():.1%} at most, cosine {cosine.mean():.4f} on average, "
    f"{cosine.min():.4f} at least,"
  )


def size_of(path: pathlib.Path) -> int:
  """Bytes of a file and of the weights beside it."""
  return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def _size(path: pathlib.Path) -> str:
  return f"{size_of(path) / 1e6:,.1f} MB"
