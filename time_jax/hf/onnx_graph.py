"""A student as an ONNX graph, built node by node, without PyTorch's tracing."""

import importlib
import math
from typing import Any

import jax
import numpy as np

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

# The newest version of the standard operators that onnxruntime 1.20 knows, the
# oldest release in pyproject.toml; and the file format that goes with it.
OPSET = 21
_IR = 10
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "last_hidden_state"
_MASKED = 1e9
_LARGEST = 2**31 - 1  # bytes of a file, a limit of its format
_OF_GRAPH = 2**20  # bytes; more than what is in it besides the weights


def save_onnx(path: Path, config: BertConfig, params: Params) -> None:
  """Writes a student as an ONNX file, and checks the file.

  The graph takes int64 `input_ids` and `attention_mask` (batch, length), both
  dynamic, and gives `last_hidden_state` (batch, length, D). Positions count the
  tokens that the mask shows, so left padding does no harm.

  Args:
    path: the file. Weights that it cannot take are written beside it, to
      PATH.data, and belong to it.
    config: the student's config.
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
  """Returns whether parameters take more than one file of the format holds."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  return size + _OF_GRAPH > _LARGEST


def require(*names: str) -> list[Any]:
  """Imports optional packages; raises UserError how to install them."""
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
    """Returns the model whose weights these are."""
    config, helper = self._config, self._helper
    x = self._embed(params["embeddings"])
    bias = self._mask()
    for i in range(config.num_layers - 1):
      block = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
      x = self._block(block, x, bias, f"layer{i}")
    x = self._block(params["last"], x, bias, f"layer{config.num_layers - 1}")
    self._nodes.append(helper.make_node("Identity", [x], [OUTPUT]))
    kinds, shape = self._onnx.TensorProto, ["batch", "length"]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
      self._nodes,
      "time_jax",
      [value(name, kinds.INT64, shape) for name in INPUTS],
      [value(OUTPUT, kinds.FLOAT, [*shape, config.hidden_size])],
      list(self._weights.values()),
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid("", OPSET)],
      producer_name="time_jax",
      ir_version=_IR,
    )

  def _add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
    """Adds a node; its inputs are names, or numbers that become constants."""
    names = [x if isinstance(x, str) else self._number(x) for x in inputs]
    name = f"{kind.lower()}_{len(self._nodes)}"
    node = self._helper.make_node(kind, names, [name], name, **attributes)
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
    config = self._config
    index = self._add("Sub", self._add("CumSum", INPUTS[1], 1), 1)
    # In bounds whatever a mask says.
    position = self._add("Clip", index, 0, config.max_positions - 1)
    table = params["position"]["embedding"][config.position_offset :]
    tokens = self._weight("word_embeddings", params["word"]["embedding"])
    x = self._add("Gather", tokens, INPUTS[0])
    places = self._weight("position_embeddings", table)
    x = self._add("Add", x, self._add("Gather", places, position))
    first_type = params["token_type"]["embedding"][0]
    x = self._add("Add", x, self._weight("token_type", first_type))
    return self._norm(params["norm"], x, "embeddings.norm")

  def _mask(self) -> str:
    """Adds a bias of 0 at tokens and -1e9 at padding, (batch, 1, 1, length)."""
    real = self._add("Cast", INPUTS[1], to=self._onnx.TensorProto.FLOAT)
    bias = self._add("Mul", self._add("Sub", real, 1.0), _MASKED)
    return self._add("Unsqueeze", bias, [1, 2])

  def _block(self, params: Params, x: str, bias: str, name: str) -> str:
    config = self._config

    def dense(part: str, x: str) -> str:
      return self._dense(params[part], x, f"{name}.{part}")

    def heads(part: str, order: list[int]) -> str:
      shape = [0, 0, config.num_heads, config.head_dim]
      y = self._add("Reshape", dense(part, x), shape)
      return self._add("Transpose", y, perm=order)

    def add_and_norm(part: str, x: str, y: str) -> str:
      return self._norm(params[part], self._add("Add", x, y), f"{name}.{part}")

    query = heads("query", [0, 2, 1, 3])
    key = heads("key", [0, 2, 3, 1])
    value = heads("value", [0, 2, 1, 3])
    logits = self._add("MatMul", query, key)
    scaled = self._add("Mul", logits, 1 / math.sqrt(config.head_dim))
    weights = self._add("Softmax", self._add("Add", scaled, bias), axis=-1)
    mixed = self._add("MatMul", weights, value)
    mixed = self._add("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = self._add("Reshape", mixed, [0, 0, config.hidden_size])
    x = add_and_norm("attention_norm", x, dense("attention_out", flat))
    active = self._add("Gelu", dense("ffn_in", x))
    return add_and_norm("ffn_norm", x, dense("ffn_out", active))

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
