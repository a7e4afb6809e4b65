"""Writes a fine-tuned model as ONNX files, and measures them against JAX."""

import numpy as np

from time_jax.core.display import byte_size
from time_jax.hf import (
  onnx_graph,
  onnx_int8,
  onnx_with_head,
  task_classes,
)
from time_jax.hf.onnx_names import FOLDER, INPUTS, INT8, PLAIN
from time_jax.release import onnx_files
from time_jax.release.model_folder import ModelFolder


def write_onnx(model: ModelFolder) -> list[tuple[str, str]]:
  """Writes a graph in float32 and one in int8, and compares both with JAX.

  Args:
    model: a folder with a model of one of `task_classes`, which gets them; its
      encoder is of BERT's kinds.

  Returns:
    For each file its name and the finding, in words.

  Raises:
    UserError: onnx or onnxruntime is not installed.
    RunError: the float32 graph gives other logits than JAX.
  """
  kind = task_classes.require(model.hf_config, model.path)
  encoder, params = model.encoder
  config = encoder.config
  with model.weights() as weights:
    head = task_classes.read_head(weights, model.hf_config)
  plain, int8 = onnx_files.make_folder(model.path)
  inputs = INPUTS[: 3 if model.has_token_types else 2]
  onnx_with_head.save_onnx(plain, config, params, head, kind, inputs)
  large = onnx_graph.is_large(params)
  exact = onnx_with_head.EXACT
  onnx_int8.write_int8(plain, int8, large=large, exact=exact)
  onnx_files.open_to_all(model.path)

  tokens = np.asarray(model.batch.tokens)
  real = np.asarray(model.batch.segment_ids) > 0
  outputs = onnx_with_head.outputs(kind)
  same = onnx_files.load_onnx(plain, outputs)(tokens, real, model.types)
  difference = onnx_files.check_equal(model.logits[real], same[real])
  # Random ids are mostly rare words, so the error is measured on text.
  text = slice(len(model.probe.texts) or None)
  types = None if model.types is None else model.types[text]
  run = onnx_files.load_onnx(int8, outputs)
  rough = run(tokens[text], real[text], types)[real[text]]
  error = np.abs(rough - model.logits[text][real[text]])
  found = {
    PLAIN: f"onnxruntime equals JAX within {difference:.1e}; "
    f"{byte_size(onnx_files.size_of(plain))}, opset {onnx_graph.OPSET}",
    INT8: f"int8: logits differ by {error.mean():.2f} on average, "
    f"{error.max():.2f} at most, on {len(error)} tokens; "
    f"{byte_size(onnx_files.size_of(int8))}",
  }
  return [(f"{FOLDER}/{name}", text) for name, text in found.items()]
