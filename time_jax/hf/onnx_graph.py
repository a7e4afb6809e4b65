"""A student as an ONNX graph, node by node: no PyTorch, no tracing."""

import importlib
import math
import pathlib
from typing import Any

import jax
import numpy as np

from time_jax.core.errors import UserError
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

# Of the standard set of operators: the newest that onnxruntime 1.20 knows, the
# oldest in pyproject.toml.
OPSET = 21
_IR = 10  # The file format that goes with it.
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "last_hidden_state"
_MASKED = 1e9
_LARGEST = 2**31 - 1  # Bytes of a file, a limit of its format.
_OF_GRAPH = 2**20  # More than what is in it besides the weights.


def save_onnx(path: pathlib.Path, config: BertConfig, params: Params) -> None:
  """Writes the graph, and checks it.

  Takes int64 `input_ids` and `attention_mask` (batch, length), both dynamic,
  and gives `last_hidden_state` (batch, length, D). Positions count the tokens
  that the mask shows, so left padding does no harm.

  Args:
    path: of the file. Weights that it cannot take lie beside it, in
      PATH.data, and belong to it.
    config: of the student.
    params: float32.

  Raises:
    UserError: onnx is not installed.
  """
  (onnx,) = require("onnx")
  onnx.save(
    _Graph(config).build(params),
    path,
    save_as_external_data=is_large(params),
    location=f"{path.name}.data",
  )
  onnx.checker.check_model(str(path))


def is_large(params: Params) -> bool:
  """Whether parameters take more than one file of the format holds."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  return size + _OF_GRAPH > _LARGEST


def require(*names: str) -> list[Any]:
  """Imports optional packages; UserError says how to install them."""
  try:
    return [importlib.import_module(name) for name in names]
  except ImportError as error:
    raise UserError(
      f"ONNX files need {error.name}: pip install -e '.[onnx]' in the "
      "repository."
    ) from error


class _Graph:
  """Nodes and weights as they are added."""

  def __init__(self, config: BertConfig) -> None:
    self._onnx, self._helper, self._arrays = require(
      "onnx", "onnx.helper", "onnx.numpy_helper"
    )
    self._config = config
    self._nodes: list[Any] = []
    self._weights: dict[str, Any] = {}

  def build(self, params: Params) -> Any:
    c, helper = self._config, self._helper
    x = self._embed(params["embeddings"])
    bias = self._mask()
    for number, block in enumerate(_blocks(params, c.num_layers)):
      x = self._block(block, x, bias, f"layer{number}")
    self._nodes.append(helper.make_node("Identity", [x], [OUTPUT]))
    kinds = self._onnx.TensorProto
    shape = ["batch", "length"]
    graph = helper.make_graph(
      self._nodes,
      "time_jax",
      [helper.make_tensor_value_info(n, kinds.INT64, shape) for n in INPUTS],
      [
        helper.make_tensor_value_info(
          OUTPUT, kinds.FLOAT, [*shape, c.hidden_size]
        )
      ],
      list(self._weights.values()),
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid("", OPSET)],
      producer_name="time_jax",
      ir_version=_IR,
    )

  def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
    name = f"{kind.lower()}_{len(self._nodes)}"
    node = self._helper.make_node(kind, inputs, [name], name, **attributes)
    self._nodes.append(node)
    return name

  def _weight(self, name: str, array: Any) -> str:
    values = np.ascontiguousarray(array)
    self._weights[name] = self._arrays.from_array(values, name)
    return name

  def _number(self, value: float | int | list[int]) -> str:
    kind = np.float32 if isinstance(value, float) else np.int64
    return self._weight(f"constant_{value}", np.array(value, kind))

  def _embed(self, params: Params) -> str:
    c = self._config
    count = self._add("CumSum", INPUTS[1], self._number(1))
    index = self._add("Sub", count, self._number(1))
    start = self._number(0)
    # In bounds whatever a mask says.
    position = self._add(
      "Clip", index, start, self._number(c.max_positions - 1)
    )
    table = params["position"]["embedding"][c.position_offset :]
    words = self._weight("word_embeddings", params["word"]["embedding"])
    x = self._add("Gather", words, INPUTS[0])
    places = self._weight("position_embeddings", table)
    x = self._add("Add", x, self._add("Gather", places, position))
    first_type = params["token_type"]["embedding"][0]
    x = self._add("Add", x, self._weight("token_type", first_type))
    return self._norm(params["norm"], x, "embeddings.norm")

  def _mask(self) -> str:
    """Zero at tokens and very low at padding, (batch, 1, 1, length)."""
    shown = self._add("Cast", INPUTS[1], to=self._onnx.TensorProto.FLOAT)
    hidden = self._add("Sub", shown, self._number(1.0))
    low = self._add("Mul", hidden, self._number(_MASKED))
    return self._add("Unsqueeze", low, self._number([1, 2]))

  def _block(self, params: Params, x: str, bias: str, name: str) -> str:
    c = self._config

    def split(part: str, order: list[int]) -> str:
      y = self._dense(params[part], x, f"{name}.{part}")
      shape = self._number([0, 0, c.num_heads, c.head_dim])
      return self._add("Transpose", self._add("Reshape", y, shape), perm=order)

    query = split("query", [0, 2, 1, 3])
    key = split("key", [0, 2, 3, 1])
    value = split("value", [0, 2, 1, 3])
    logits = self._add("MatMul", query, key)
    scaled = self._add("Mul", logits, self._number(1 / math.sqrt(c.head_dim)))
    weights = self._add("Softmax", self._add("Add", scaled, bias), axis=-1)
    mixed = self._add("MatMul", weights, value)
    mixed = self._add("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = self._add("Reshape", mixed, self._number([0, 0, c.hidden_size]))
    out = self._dense(params["attention_out"], flat, f"{name}.attention_out")
    x = self._norm(
      params["attention_norm"],
      self._add("Add", x, out),
      f"{name}.attention_norm",
    )
    inner = self._dense(params["ffn_in"], x, f"{name}.ffn_in")
    active = self._add("Gelu", inner)
    out = self._dense(params["ffn_out"], active, f"{name}.ffn_out")
    return self._norm(
      params["ffn_norm"], self._add("Add", x, out), f"{name}.ffn_norm"
    )

  def _dense(self, params: Params, x: str, name: str) -> str:
    kernel = self._weight(f"{name}.kernel", params["kernel"])
    y = self._add("MatMul", x, kernel)
    return self._add("Add", y, self._weight(f"{name}.bias", params["bias"]))

  def _norm(self, params: Params, x: str, name: str) -> str:
    scale = self._weight(f"{name}.scale", params["scale"])
    bias = self._weight(f"{name}.bias", params["bias"])
    epsilon = self._config.layer_norm_eps
    return self._add(
      "LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon
    )


def _blocks(params: Params, num_layers: int) -> list[Params]:
  """Every block's parameters, on the host."""

  def take(tree: Params, index: int | None) -> Params:
    return {
      part: {
        name: np.asarray(leaf if index is None else leaf[index])
        for name, leaf in leaves.items()
      }
      for part, leaves in tree.items()
    }

  middle = [take(params["layers"], i) for i in range(num_layers - 1)]
  return [*middle, take(params["last"], None)]
