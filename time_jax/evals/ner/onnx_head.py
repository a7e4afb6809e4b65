"""The program of `finetune ner` as an ONNX graph; see `tagger`."""

from time_jax.evals.common import onnx_words
from time_jax.evals.common.onnx_engine import Program
from time_jax.hf.onnx_graph import Graph
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params


def first_program(config: BertConfig, params: Params, name: str) -> Program:
  """Returns the graph of `Tagger.outputs`.

  Args:
    config: the encoder's config.
    params: "encoder" and "heads".
    name: name of the labels.
  """
  graph = Graph()
  read = onnx_words.read_packed(graph, config, params["encoder"])
  words = onnx_words.first_token(graph, read.states[-1], read.own)
  logits = graph.dense(params["heads"]["Dense_0"], words, name)
  tags = graph.add("ArgMax", logits, axis=-1, keepdims=0)
  graph.output(name, tags, "int64", onnx_words.ROWS)
  return Program(graph, {name: name})
