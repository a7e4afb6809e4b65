"""The program of `finetune split` as an ONNX graph; see `splitter`."""

from collections.abc import Callable, Sequence

from time_jax.evals.common import onnx_words
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.onnx_words import ROWS, Words
from time_jax.evals.split.boundaries import BOUNDARY, KINDS
from time_jax.evals.split.reading import GAPS
from time_jax.hf.onnx_graph import Graph
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params


def first_program(
  columns: Sequence[str],
  config: BertConfig,
  params: Params,
  read_words: Callable[..., Words] = onnx_words.read_packed,
) -> Program:
  """Returns the graph of `Splitter.outputs`.

  Args:
    columns: names of the classes.
    config: the encoder's config.
    params: "encoder" and "heads".
    read_words: adds the inputs and the encoder, see `onnx_words`.
  """
  graph = Graph()
  tags = [params["heads"][f"tags_{name}"] for name in columns]
  read = read_words(graph, config, params["encoder"])
  words = onnx_words.mean_tokens(graph, read.states, read.own)
  mixes = onnx_words.mixes(graph, words, [x["Mix_0"]["weights"] for x in tags])
  for name, tag, mix in zip(columns, tags, mixes, strict=True):
    if name == BOUNDARY:
      logits = onnx_words.class_logits(graph, tag, mix, name)
      kinds = graph.add("Reshape", logits, [0, 0, GAPS, len(KINDS)])
      graph.output(name, kinds, "float", [*ROWS, GAPS, len(KINDS)])
    else:
      found = onnx_words.classify(graph, tag, mix, name)
      graph.output(name, found, "int64", ROWS)
  return Program(graph, {name: name for name in columns})
