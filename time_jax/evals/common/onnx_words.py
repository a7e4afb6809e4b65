"""Layers of words as nodes of an ONNX graph; see `word_layers`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from time_jax.hf.onnx_encoder import AXES, add_encoder, packed_states
from time_jax.hf.onnx_graph import Graph
from time_jax.hf.onnx_names import OWNERS
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

# Epsilon of flax's LayerNorm, which the encoder's own does not have.
_EPSILON = 1e-6
ROWS = ("rows", "words")  # axes of what is said of words


class Words(NamedTuple):
  """Nodes that know the words of rows.

  Attributes:
    states: the hidden states of all layers (rows, tokens, D).
    own: which tokens are of each word, bool (rows, words, tokens).
    segments: the chunk of each word, from 1 (rows, words); 0: there is no word.
  """

  states: Sequence[str]
  own: str
  segments: str


def read_packed(graph: Graph, config: BertConfig, params: Params) -> Words:
  """Adds the inputs of a `word_network.WordBatch`, and the encoder.

  Args:
    graph: a graph without inputs.
    config: the encoder's config.
    params: the encoder's parameters.
  """
  states = packed_states(graph, config, params)
  owners = graph.input(OWNERS, "int64", ["rows", "tokens"])
  segments = graph.input("segment_of_word", "int64", ROWS)
  numbers = graph.add("Unsqueeze", graph.numbers(segments, 1, start=1), [1])
  own = graph.add("Equal", graph.add("Unsqueeze", owners, [1]), numbers)
  return Words(states, own, segments)


def read_sentences(
  graph: Graph, config: BertConfig, params: Params, inputs: Sequence[str]
) -> Words:
  """Adds the inputs of rows of one sentence each, and the encoder.

  They are those of a tokenizer, and `word_of_token`, which alone tells how many
  words there are.

  Args:
    graph: a graph without inputs.
    config: the encoder's config.
    params: the encoder's parameters.
    inputs: see `onnx_encoder.add_encoder`.
  """
  states = add_encoder(graph, config, params, inputs)
  owners = graph.input(OWNERS, "int64", AXES)
  numbers = graph.add("Unsqueeze", graph.up_to_largest(owners), [0, 2])
  own = graph.add("Equal", graph.add("Unsqueeze", owners, [1]), numbers)
  present = graph.add("ReduceMax", graph.cast(own, "float"), [-1], keepdims=0)
  return Words(states, own, graph.cast(present, "int64"))


def mean_tokens(graph: Graph, states: Sequence[str], own: str) -> str:
  """Adds the mean over the tokens of each word (layers, rows, words, D).

  Args:
    graph: the graph.
    states: hidden states of the layers.
    own: see `Words`.
  """
  own = graph.cast(own, "float")
  count = graph.add("ReduceSum", own, [-1], keepdims=1)
  share = graph.add("Div", own, graph.add("Max", count, 1.0))
  means = [graph.add("MatMul", share, state) for state in states]
  layers = [graph.add("Unsqueeze", mean, [0]) for mean in means]
  return graph.add("Concat", *layers, axis=0)


def first_token(graph: Graph, states: str, own: str) -> str:
  """Adds the first token of each word (rows, words, D).

  Args:
    graph: the graph.
    states: hidden states of a layer.
    own: see `Words`.
  """
  first = graph.add("ArgMax", graph.cast(own, "float"), axis=-1, keepdims=1)
  return graph.add("GatherND", states, first, batch_dims=1)


def mixes(graph: Graph, words: str, weights: Sequence[np.ndarray]) -> list[str]:
  """Adds learned means of the layers, each (rows, words, D).

  All of them are one product of matrices.

  Args:
    graph: the graph.
    words: words in all layers (layers, rows, words, D).
    weights: for each mean the parameter of `word_layers.Mix`.
  """
  # On the host, where JAX would compile a program for it.
  table = np.exp(np.stack(weights) - np.max(weights, axis=-1, keepdims=True))
  table /= table.sum(axis=-1, keepdims=True)
  shares = graph.weight("mixes", table)
  flat = graph.add("Reshape", words, [table.shape[1], -1])
  shape = graph.add("Concat", [-1], graph.add("Shape", words, start=1), axis=0)
  mixed = graph.add("Reshape", graph.add("MatMul", shares, flat), shape)
  return [graph.take(mixed, i, axis=0) for i in range(len(weights))]


def gated_layer(graph: Graph, params: Params, x: str, name: str) -> str:
  """Adds a `word_layers.GatedLayer`.

  Args:
    graph: the graph.
    params: its parameters.
    x: its input (rows, words, D).
    name: what the names of its weights begin with.
  """
  halves = []
  for half, part in enumerate(("gate", "value")):
    own = {k: np.split(v, 2, axis=-1)[half] for k, v in _dense(params).items()}
    halves.append(graph.dense(own, x, f"{name}.{part}"))
  gate, value = halves
  x = graph.add("Mul", graph.add("Gelu", gate), value)
  return graph.norm(params["LayerNorm_0"], x, f"{name}.norm", _EPSILON)


def class_logits(graph: Graph, params: Params, mix: str, name: str) -> str:
  """Adds the logits of a `word_layers.Classifier` (rows, words, classes).

  Args:
    graph: the graph.
    params: its parameters.
    mix: what its own mix gives (rows, words, D).
    name: what the names of its weights begin with.
  """
  x = gated_layer(graph, params["GatedLayer_0"], mix, f"{name}.hidden")
  return graph.dense(_dense(params), x, name)


def classify(graph: Graph, params: Params, mix: str, name: str) -> str:
  """Adds the class of each word, int64 (rows, words); see `class_logits`."""
  logits = class_logits(graph, params, mix, name)
  return graph.add("ArgMax", logits, axis=-1, keepdims=0)


def _dense(params: Params) -> Params:
  """Returns the parameters of the one linear layer, on the host."""
  return {k: np.asarray(v) for k, v in params["Dense_0"].items()}
