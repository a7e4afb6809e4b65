"""Writes a student as ONNX files, and measures each of them against JAX."""

from collections.abc import Sequence

import numpy as np

from time_jax.core.display import byte_size
from time_jax.core.errors import RunError
from time_jax.core.storage.paths import Path, list_files
from time_jax.hf import onnx_encoder, onnx_graph, onnx_int8, onnx_session
from time_jax.hf.onnx_names import FOLDER, INPUTS, INT8, PLAIN, STATES
from time_jax.hf.torch_encoder import Encode
from time_jax.release import probe
from time_jax.run.saved_student import Student

# Of hidden states in float32, relative to the largest one if that exceeds 1.
TOLERANCE = 1e-4
# Share of its length by which int8 moves a vector, on average; above it int8 is
# called too rough. A student of 4 x 192 units, begun with the layers of a wider
# teacher, was at 0.13, one of 6 x 384 at 0.06.
_ROUGH = 0.1


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
  plain, int8 = make_folder(folder)
  onnx_encoder.save_onnx(plain, student.config, student.params)
  onnx_int8.write_int8(plain, int8, large=onnx_graph.is_large(student.params))
  open_to_all(folder)
  batch = rows.batch()
  real = np.asarray(batch.segment_ids) > 0
  tokens = np.asarray(batch.tokens)
  states = probe.hidden_states(student.encoder, student.params, batch)[-1]
  actual = load_onnx(plain)(tokens, real)
  difference = check_equal(states[real], actual[real])
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


def make_folder(folder: Path) -> tuple[Path, Path]:
  """Makes the folder of the files, and returns their paths.

  Args:
    folder: the export's folder.

  Returns:
    The file in float32 and the one in int8, to be written.
  """
  target = folder / FOLDER
  target.mkdir()
  return target / PLAIN, target / INT8


def open_to_all(folder: Path) -> None:
  """Lets everybody read the files; weights beside one are private at first."""
  for path in list_files(folder / FOLDER):
    path.chmod(0o644)


def check_equal(expected: np.ndarray, actual: np.ndarray) -> float:
  """Returns the largest difference between JAX's and onnxruntime's arrays.

  Raises:
    RunError: it is too large.
  """
  difference = float(np.abs(actual - expected).max())
  if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
    raise RunError(
      f"onnxruntime differs from JAX by {difference:.2e}, expected at most "
      f"{TOLERANCE}."
    )
  return difference


def load_onnx(path: Path, outputs: Sequence[str] = STATES) -> Encode:
  """Opens an ONNX file in onnxruntime, on the CPU.

  Args:
    path: the file.
    outputs: names of outputs. Two or more become the last axis of one array.

  Returns:
    A function that gives the last hidden states (B, T, D) or the logits
    (B, T, C).
  """
  session = onnx_session.open_session(path)

  def encode(
    tokens: np.ndarray, mask: np.ndarray, types: np.ndarray | None = None
  ) -> np.ndarray:
    given = (tokens, mask, np.zeros_like(tokens) if types is None else types)
    feeds = {
      name: np.asarray(array, np.int64)
      for name, array in zip(INPUTS, given, strict=True)
      if name in session.inputs
    }
    found = session.run(outputs, feeds)
    return np.stack(found, axis=-1) if len(found) > 1 else found[0]

  return encode


def _error(exact: np.ndarray, found: np.ndarray) -> str:
  """Says how far vectors of tokens (N, D) are off in int8."""
  norms = np.linalg.norm(exact, axis=-1), np.linalg.norm(found, axis=-1)
  cosine = (exact * found).sum(-1) / (norms[0] * norms[1])
  relative = np.linalg.norm(found - exact, axis=-1) / norms[0]
  warning = f"too rough, use {PLAIN}; " if relative.mean() > _ROUGH else ""
  return (
    f"int8: {warning}error {relative.mean():.1%} of a vector's length on "
    f"average, {relative.max():.1%} at most, cosine {cosine.mean():.4f} on "
    f"average, {cosine.min():.4f} at least,"
  )


def size_of(path: Path) -> int:
  """Returns the bytes of a file and of the weights beside it."""
  parts = list_files(path.parent, f"{path.name}*")
  return sum(part.stat().st_size for part in parts)
