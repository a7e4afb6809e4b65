"""Writes a student as ONNX files, and measures each of them against JAX."""

import numpy as np

from time_jax.core.display import byte_size
from time_jax.core.errors import RunError
from time_jax.core.storage.paths import Path, list_files
from time_jax.hf import onnx_encoder, onnx_graph, onnx_int8, onnx_session
from time_jax.hf.torch_encoder import Encode
from time_jax.release import probe
from time_jax.run.saved_student import Student

FOLDER = "onnx"
# The names that transformers.js looks for. Earlier exports have
# model_int8.onnx, which `verify` finds in their record.
PLAIN, INT8 = "model.onnx", "model_quantized.onnx"
# Of hidden states in float32, relative to the largest one if that exceeds 1.
TOLERANCE = 1e-4


def write_onnx(
  folder: Path, student: Student, rows: probe.Probe
) -> list[tuple[str, str]]:
  """Writes a graph in float32 and one in int8, and compares both with JAX.

  Args:
    folder: the export's folder.
    student: the student, float32.
    rows: rows to compare on.

  Returns:
    For each file its name and the finding, in words.

  Raises:
    UserError: onnx or onnxruntime is not installed.
    RunError: the float32 graph gives other hidden states than JAX.
  """
  target = folder / FOLDER
  target.mkdir()
  plain, int8 = target / PLAIN, target / INT8
  onnx_encoder.save_onnx(plain, student.config, student.params)
  onnx_int8.write_int8(plain, int8, large=onnx_graph.is_large(student.params))
  for path in list_files(target):
    path.chmod(0o644)  # Weights beside a file are written as private.
  batch = rows.batch()
  real = np.asarray(batch.segment_ids) > 0
  tokens = np.asarray(batch.tokens)
  states = probe.hidden_states(student.encoder, student.params, batch)[-1]
  actual = load_onnx(plain)(tokens, real)
  difference = float(np.abs(actual - states)[real].max())
  if not difference <= TOLERANCE * max(1.0, float(np.abs(states[real]).max())):
    raise RunError(
      f"onnxruntime differs from JAX by {difference:.2e}, expected at most "
      f"{TOLERANCE}."
    )
  # The error of int8 is measured on text: random ids are mostly rare words.
  text = slice(len(rows.texts) or None)
  rough = load_onnx(int8)(tokens[text], real[text])[real[text]]
  exact = states[text][real[text]]
  kind = "text" if rows.texts else "ids"
  found = {
    PLAIN: f"onnxruntime equals JAX within {difference:.1e}; "
    f"{byte_size(size_of(plain))}, opset {onnx_graph.OPSET}",
    INT8: f"{_error(exact, rough)} on {len(exact)} tokens of {kind}; "
    f"{byte_size(size_of(int8))}",
  }
  return [(f"{FOLDER}/{name}", text) for name, text in found.items()]


def load_onnx(path: Path) -> Encode:
  """Opens an ONNX file in onnxruntime, on the CPU.

  Args:
    path: the file.

  Returns:
    A function of tokens (B, T) and mask (B, T) that gives the last hidden
    states (B, T, D).
  """
  session = onnx_session.open_session(path)

  def encode(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    feeds = dict(zip(onnx_encoder.INPUTS, (tokens, mask), strict=True))
    int64 = {name: np.asarray(x, np.int64) for name, x in feeds.items()}
    return session.run([onnx_encoder.OUTPUT], int64)[0]

  return encode


def _error(exact: np.ndarray, rough: np.ndarray) -> str:
  """Says how far vectors of tokens (N, D) are off in int8."""
  norms = np.linalg.norm(exact, axis=-1), np.linalg.norm(rough, axis=-1)
  cosine = (exact * rough).sum(-1) / (norms[0] * norms[1])
  relative = np.linalg.norm(rough - exact, axis=-1) / norms[0]
  return (
    f"int8: error {relative.mean():.1%} of a vector's length on average, "
    f"{relative.max():.1%} at most, cosine {cosine.mean():.4f} on average, "
    f"{cosine.min():.4f} at least,"
  )


def size_of(path: Path) -> int:
  """Returns the bytes of a file and of the weights beside it."""
  parts = list_files(path.parent, f"{path.name}*")
  return sum(part.stat().st_size for part in parts)
