"""BERT and its kin as ONNX graphs: a student's file, and packed rows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from time_jax.core.storage.paths import Path
from time_jax.hf.onnx_graph import Graph, is_large
from time_jax.hf.onnx_names import INPUTS, STATES
from time_jax.models import stepwise
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

AXES = ("batch", "length")
_MASKED = 1e9
_Node = Callable[[Graph, str], str]


def _silu(graph: Graph, x: str) -> str:
  return graph.add("Mul", x, graph.add("Sigmoid", x))


def _node(kind: str, **attributes: Any) -> _Node:
  return lambda graph, x: graph.add(kind, x, **attributes)


# As `models.layers.ACTIVATIONS`.
_ACTIVATIONS: dict[str, _Node] = {
  "gelu": _node("Gelu"),
  "gelu_new": _node("Gelu", approximate="tanh"),
  "gelu_pytorch_tanh": _node("Gelu", approximate="tanh"),
  "relu": _node("Relu"),
  "silu": _silu,
  "tanh": _node("Tanh"),
}


def save_onnx(path: Path, config: BertConfig, params: Params) -> None:
  """Writes a student as an ONNX file, and checks the file.

  The graph takes what `add_encoder` says, without token types, and gives
  `last_hidden_state` (batch, length, D).

  Args:
    path: the file. Weights that it cannot take are written beside it, to
      PATH.data, and belong to it.
    config: the student's config.
    params: float32.

  Raises:
    UserError: onnx is not installed.
  """
  graph = Graph()
  *_, x = add_encoder(graph, config, params, INPUTS[:2])
  graph.output(*STATES, x, "float", [*AXES, config.hidden_size])
  graph.save(path, large=is_large(params))


def add_encoder(
  graph: Graph, config: BertConfig, params: Params, inputs: Sequence[str]
) -> list[str]:
  """Adds an encoder of texts or pairs, as transformers has its inputs.

  The graph takes int64 arrays (batch, length), both dynamic. Positions count
  the tokens that the mask shows, so left padding does no harm.

  Args:
    graph: a graph without inputs.
    config: the encoder's config.
    params: float32.
    inputs: names of `onnx_names.INPUTS`. Without types of tokens all are 0.

  Returns:
    The names of the hidden states of all layers, the embeddings first, each
    (batch, length, D).
  """
  for name in inputs:
    graph.input(name, "int64", AXES)
  tokens, mask, types = INPUTS
  index = graph.add("Sub", graph.add("CumSum", mask, 1), 1)
  # In bounds whatever a mask says.
  last = config.max_positions - 1
  position = graph.add("Clip", index, 0, last)
  blocks = Blocks(graph, config, params)
  x = blocks.embed(tokens, position, types if types in inputs else None)
  bias = graph.add("Sub", graph.cast(mask, "float"), 1.0)
  bias = graph.add("Unsqueeze", graph.add("Mul", bias, _MASKED), [1, 2])
  return blocks.states(x, bias)


def packed_states(
  graph: Graph,
  config: BertConfig,
  params: Params,
  token_types: str | None = None,
) -> list[str]:
  """Adds an encoder of rows that documents share; see `core.arrays.Batch`.

  The graph gets the int64 inputs `input_ids`, `segment_ids` and `positions`
  (rows, tokens), and `token_types` where they are named.

  Args:
    graph: a graph without inputs.
    config: the encoder's config.
    params: the encoder's parameters, stacked or not.
    token_types: name of the input with the types of tokens; None: all are 0.

  Returns:
    The names of the hidden states of all layers, the embeddings first.
  """
  names = ["input_ids", "segment_ids", "positions"]
  names += [token_types] if token_types else []
  tokens, segments, positions, *types = (
    graph.input(name, "int64", ["rows", "tokens"]) for name in names
  )
  blocks = Blocks(graph, config, params)
  x = blocks.embed(tokens, positions, *types)
  queries = graph.add("Unsqueeze", segments, [1, 3])
  keys = graph.add("Unsqueeze", segments, [1, 2])
  seen = graph.add(
    "And", graph.add("Equal", queries, keys), graph.add("Greater", keys, 0)
  )
  # Finite: padding sees no key at all, and is to give no NaN.
  bias = graph.add("Where", seen, 0.0, -_MASKED)
  return blocks.states(x, bias)


class Blocks:
  """The parts of an encoder, to be added to a graph."""

  def __init__(self, graph: Graph, config: BertConfig, params: Params) -> None:
    """Takes the parameters of an encoder.

    Args:
      graph: the graph.
      config: the encoder's config.
      params: the encoder's parameters, stacked or not.
    """
    self._graph, self._config = graph, config
    if not isinstance(params.get("layers"), list):
      params = stepwise.unstack(params)
    self._params = params

  def embed(
    self, tokens: str, positions: str, token_types: str | None = None
  ) -> str:
    """Adds the embeddings (rows, tokens, D).

    Args:
      tokens: ids (rows, tokens).
      positions: index of each token in its document, from 0.
      token_types: their types; None: all are 0.
    """
    graph, config = self._graph, self._config
    params = self._params["embeddings"]
    table = params["position"]["embedding"][config.position_offset :]
    words = graph.weight("word_embeddings", params["word"]["embedding"])
    x = graph.add("Gather", words, tokens)
    places = graph.weight("position_embeddings", table)
    x = graph.add("Add", x, graph.add("Gather", places, positions))
    types = params["token_type"]["embedding"]
    own = graph.weight("token_type", types if token_types else types[0])
    own = graph.add("Gather", own, token_types) if token_types else own
    x = graph.add("Add", x, own)
    x = self._norm(params["norm"], x, "embeddings.norm")
    if "project" in params:  # ELECTRA
      x = graph.dense(params["project"], x, "embeddings.project")
    return x

  def states(self, x: str, bias: str) -> list[str]:
    """Adds all blocks, and returns their input and what each of them gives.

    Args:
      x: the embeddings.
      bias: what is added to the logits of attention (rows, 1, queries or 1,
        keys).
    """
    found = [x]
    for i, block in enumerate(
      [*self._params.get("layers", ()), self._params["last"]]
    ):
      found.append(self._block(block, found[-1], bias, f"layer{i}"))
    return found

  def _block(self, params: Params, x: str, bias: str, name: str) -> str:
    graph, config = self._graph, self._config

    def dense(part: str, x: str) -> str:
      return graph.dense(params[part], x, f"{name}.{part}")

    def heads(part: str, order: list[int]) -> str:
      shape = [0, 0, config.num_heads, config.head_dim]
      y = graph.add("Reshape", dense(part, x), shape)
      return graph.add("Transpose", y, perm=order)

    def add_and_norm(part: str, x: str, y: str) -> str:
      return self._norm(params[part], graph.add("Add", x, y), f"{name}.{part}")

    query = heads("query", [0, 2, 1, 3])
    key = heads("key", [0, 2, 3, 1])
    value = heads("value", [0, 2, 1, 3])
    logits = graph.add("MatMul", query, key)
    scaled = graph.add("Mul", logits, 1 / math.sqrt(config.head_dim))
    weights = graph.add("Softmax", graph.add("Add", scaled, bias), axis=-1)
    mixed = graph.add("MatMul", weights, value)
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", mixed, [0, 0, config.hidden_size])
    x = add_and_norm("attention_norm", x, dense("attention_out", flat))
    active = _ACTIVATIONS[config.activation](graph, dense("ffn_in", x))
    return add_and_norm("ffn_norm", x, dense("ffn_out", active))

  def _norm(self, params: Params, x: str, name: str) -> str:
    return self._graph.norm(params, x, name, self._config.layer_norm_eps)
