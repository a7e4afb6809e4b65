"""ONNX files of a student, each measured against JAX before it is kept."""

import logging
import pathlib
from typing import Any

import numpy as np

from time_jax.core.display import byte_size
from time_jax.core.errors import RunError
from time_jax.hf import onnx_graph
from time_jax.hf.torch_encoder import Encode
from time_jax.release import probe
from time_jax.run.saved_student import Student

FOLDER = "onnx"
# The names by which transformers.js looks for them. Earlier exports have
# model_int8.onnx, which `verify` finds in their record.
PLAIN, INT8 = "model.onnx", "model_quantized.onnx"
TOLERANCE = 1e-4  # of hidden states in float32, of their largest value above 1


def write_onnx(
  folder: pathlib.Path, student: Student, rows: probe.Probe
) -> list[tuple[str, str]]:
  """Writes onnx/model.onnx, and its int8 twin, and measures both.

  Args:
    folder: the export's folder.
    student: the student, float32.
    rows: rows to compare on.

  Returns:
    (file, what was measured) of each.

  Raises:
    UserError: onnx or onnxruntime is not installed.
    RunError: onnxruntime and JAX differ.
  """
  target = folder / FOLDER
  target.mkdir()
  plain, int8 = target / PLAIN, target / INT8
  onnx_graph.save_onnx(plain, student.config, student.params)
  write_int8(plain, int8, large=onnx_graph.is_large(student.params))
  for path in target.iterdir():
    path.chmod(0o644)  # Weights beside a file are written as private.
  batch = rows.batch()
  real = np.asarray(batch.segment_ids) > 0
  tokens = np.asarray(batch.tokens)
  states = probe.hidden_states(student.encoder, student.params, batch)[-1]
  expected = states[real]
  difference = float(
    np.abs(load_onnx(plain)(tokens, real)[real] - expected).max()
  )
  if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
    raise RunError(
      f"onnxruntime differs from JAX by {difference:.2e}, expected at most "
      f"{TOLERANCE}."
    )
  # Rounding is judged by real text: random ids are of rare words.
  text = slice(len(rows.texts) or None)
  rough = load_onnx(int8)(tokens[text], real[text])[real[text]]
  exact = states[text][real[text]]
  kind = "text" if rows.texts else "ids"
  return [
    (
      f"{FOLDER}/{PLAIN}",
      f"onnxruntime equals JAX within {difference:.1e}; "
      f"{byte_size(size_of(plain))}, opset {onnx_graph.OPSET}",
    ),
    (
      f"{FOLDER}/{INT8}",
      f"{_error(exact, rough)} on {len(exact)} tokens of {kind}; "
      f"{byte_size(size_of(int8))}",
    ),
  ]


def write_int8(
  path: pathlib.Path, target: pathlib.Path, *, large: bool
) -> None:
  """Writes a graph with its weights in 8 bits, a scale for every column.

  Args:
    path: file of the graph.
    target: file of the one in 8 bits.
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


def load_onnx(path: pathlib.Path) -> Encode:
  """Returns a file's model as a function of tokens and mask -> (B, T, D).

  Args:
    path: the file, which onnxruntime runs on the CPU.
  """
  (runtime,) = onnx_graph.require("onnxruntime")
  options = runtime.SessionOptions()
  options.log_severity_level = 3  # Errors alone.
  session: Any = runtime.InferenceSession(
    str(path), options, providers=["CPUExecutionProvider"]
  )

  def encode(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    feeds = dict(zip(onnx_graph.INPUTS, (tokens, mask), strict=True))
    int64 = {name: np.asarray(x, np.int64) for name, x in feeds.items()}
    return session.run([onnx_graph.OUTPUT], int64)[0]

  return encode


def _error(exact: np.ndarray, rough: np.ndarray) -> str:
  """Says what rounding to int8 costs, over vectors (N, D) of tokens."""
  norms = np.linalg.norm(exact, axis=-1), np.linalg.norm(rough, axis=-1)
  cosine = (exact * rough).sum(-1) / (norms[0] * norms[1])
  relative = np.linalg.norm(rough - exact, axis=-1) / norms[0]
  return (
    f"int8: error {relative.mean():.1%} of a vector's length on average, "
    f"{relative.max():.1%} at most, cosine {cosine.mean():.4f} on average, "
    f"{cosine.min():.4f} at least,"
  )


def size_of(path: pathlib.Path) -> int:
  """Returns the bytes of a file and of the weights beside it."""
  return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
