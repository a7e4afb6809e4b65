"""Writes a model of `finetune split` as ONNX files, measured against JAX."""

import functools
from collections.abc import Sequence
from typing import cast

import jax
import numpy as np

from time_jax.core.display import byte_size
from time_jax.core.storage.paths import Path
from time_jax.evals.common import onnx_words
from time_jax.evals.predict.pipeline import open_network
from time_jax.evals.publish import word_rows
from time_jax.evals.split import onnx_heads
from time_jax.evals.split.reading import Reading, forms_of_windows
from time_jax.evals.split.splitter import Splitter
from time_jax.hf import onnx_graph, onnx_int8
from time_jax.hf.onnx_names import FOLDER, INPUTS, INT8, PLAIN
from time_jax.release import onnx_files, probe


def write_onnx(folder: Path) -> list[tuple[str, str]]:
  """Writes a graph in float32 and one in int8, and compares both with JAX.

  Args:
    folder: a folder with a model of `finetune split`, which gets them; its
      encoder is of BERT's kinds.

  Returns:
    For each file its name and the finding, in words.

  Raises:
    UserError: onnx or onnxruntime is not installed.
    RunError: the float32 graph gives something else than JAX.
  """
  opened, params = open_network(folder)
  network = cast(Splitter, opened)
  plain, int8 = onnx_files.make_folder(folder)
  large = onnx_graph.is_large(params)
  columns = [name for name, _ in network.heads.classes]
  read_words = functools.partial(onnx_words.read_sentences, inputs=INPUTS[:2])
  graph, _ = onnx_heads.first_program(
    columns, network.opened.config, params, read_words
  )
  graph.save(plain, large=large)
  onnx_int8.write_int8(plain, int8, large=large)
  onnx_files.open_to_all(folder)

  batch = word_rows.fill(network, forms_of_windows(map(Reading, probe.TEXTS)))
  real = np.asarray(batch.segment_of_word) > 0
  outputs = jax.device_get(network.outputs(params, batch))
  expected = _labels([outputs[name] for name in columns], real)
  given = word_rows.inputs(batch)
  found = [word_rows.run(path, columns, given) for path in (plain, int8)]
  counts = [int((_labels(x, real) == expected).sum()) for x in found]
  total = len(expected)
  word_rows.check(counts[0], counts[1], total)
  opset = f", opset {onnx_graph.OPSET}"
  return [
    (f"{FOLDER}/{name}", f"{start}{count} of {total} labels equal; {size}{end}")
    for name, start, count, size, end in (
      (PLAIN, "onnxruntime: ", counts[0], _size(plain), opset),
      (INT8, "int8: ", counts[1], _size(int8), ""),
    )
  ]


def _labels(outputs: Sequence[np.ndarray], real: np.ndarray) -> np.ndarray:
  """Returns the classes of all atoms as one array; of scores, the best ones."""
  columns = (x if x.ndim == real.ndim else x.argmax(-1) for x in outputs)
  return np.concatenate([x[real].ravel() for x in columns])


def _size(path: Path) -> str:
  return byte_size(onnx_files.size_of(path))
