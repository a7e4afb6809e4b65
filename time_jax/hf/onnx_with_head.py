"""A model with a head as an ONNX file, with the names that others look for."""

from collections.abc import Sequence

from time_jax.core.storage.paths import Path
from time_jax.hf import onnx_encoder
from time_jax.hf.onnx_encoder import AXES
from time_jax.hf.onnx_graph import Graph, is_large
from time_jax.hf.onnx_names import LOGITS, PLACES
from time_jax.hf.task_classes import Head, TaskClass
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

_HEAD = "head"
# Its errors would go straight into the decision, and it is small.
EXACT = (f"{_HEAD}.kernel",)


def outputs(kind: TaskClass) -> tuple[str, ...]:
  """Returns the names of the outputs, as transformers has them."""
  return PLACES if kind.reads_pairs else LOGITS


def save_onnx(
  path: Path,
  config: BertConfig,
  params: Params,
  head: Head,
  kind: TaskClass,
  inputs: Sequence[str],
) -> None:
  """Writes a model as an ONNX file, and checks the file.

  Args:
    path: see `onnx_encoder.save_onnx`.
    config: the encoder's config.
    params: the encoder's parameters, float32.
    head: the linear layer on top of it.
    kind: the model's class, which says how its outputs are called: `logits`
      (batch, length, C), or `start_logits` and `end_logits` (batch, length).
    inputs: see `onnx_encoder.add_encoder`; those that the tokenizer gives.

  Raises:
    UserError: onnx is not installed.
  """
  graph = Graph()
  *_, x = onnx_encoder.add_encoder(graph, config, params, inputs)
  logits = graph.dense(head._asdict(), x, _HEAD)
  if kind.reads_pairs:
    for i, name in enumerate(PLACES):
      graph.output(name, graph.take(logits, i, axis=2), "float", AXES)
  else:
    shape = [*AXES, len(head.bias)]
    graph.output(*LOGITS, logits, "float", shape)
  graph.save(path, large=is_large(params))
