"""ONNX graphs, built node by node, without PyTorch's tracing."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from time_jax.core.storage.paths import Path
from time_jax.hf.onnx_names import BESIDE
from time_jax.hf.onnx_session import require
from time_jax.models.family import Params

# The newest version of the standard operators that onnxruntime 1.20 knows, the
# oldest release in pyproject.toml; and the file format that goes with it.
OPSET = 21
_IR = 10
_LARGEST = 2**31 - 1  # bytes of a file, a limit of its format
_OF_GRAPH = 2**20  # bytes; more than what is in it besides the weights


def is_large(params: Params) -> bool:
  """Returns whether parameters take more than one file of the format holds."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  return size + _OF_GRAPH > _LARGEST


class Graph:
  """Nodes and weights as they are added.

  What a node gives is known by its name, which the methods return and take.
  """

  def __init__(self) -> None:
    """Begins an empty graph; raises UserError if onnx is not installed."""
    self._onnx, self._helper, self._arrays = require(
      "onnx", "onnx.helper", "onnx.numpy_helper"
    )
    self._inputs: list[Any] = []
    self._outputs: list[Any] = []
    self._nodes: list[Any] = []
    self._weights: dict[str, Any] = {}

  def input(self, name: str, kind: str, shape: Sequence[str | int]) -> str:
    """Adds an input of the graph, and returns its name.

    Args:
      name: its name.
      kind: its type, such as "int64", "float" or "bool".
      shape: sizes; a name is of an axis of any size.
    """
    self._inputs.append(self._value(name, kind, shape))
    return name

  def output(
    self, name: str, x: str, kind: str, shape: Sequence[str | int]
  ) -> None:
    """Makes a node's result an output of the graph.

    Args:
      name: name of the output.
      x: the result.
      kind: its type; see `input`.
      shape: its sizes; see `input`.
    """
    self._nodes.append(self._helper.make_node("Identity", [x], [name]))
    self._outputs.append(self._value(name, kind, shape))

  def model(self) -> Any:
    """Returns the model, an `onnx.ModelProto`."""
    helper = self._helper
    graph = helper.make_graph(
      self._nodes,
      "time_jax",
      self._inputs,
      self._outputs,
      list(self._weights.values()),
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid("", OPSET)],
      producer_name="time_jax",
      ir_version=_IR,
    )

  def save(self, path: Path, *, large: bool) -> None:
    """Writes the model to a file, and checks the file.

    Args:
      path: the file.
      large: whether the weights go beside it, to PATH_data; see `is_large`.
    """
    self._onnx.save(
      self.model(),
      str(path),
      save_as_external_data=large,
      location=f"{path.name}{BESIDE}",
    )
    self._onnx.checker.check_model(str(path))

  def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
    """Adds a node, and returns the name of what it gives.

    Args:
      kind: its operator.
      *inputs: names, or numbers that become vectors of constants: float32 of a
        float, int64 of whole numbers.
      **attributes: of the operator.
    """
    names = [x if isinstance(x, str) else self._number(x) for x in inputs]
    name = f"{kind.lower()}_{len(self._nodes)}"
    node = self._helper.make_node(kind, names, [name], name, **attributes)
    self._nodes.append(node)
    return name

  def weight(self, name: str, array: Any) -> str:
    """Adds an array under a name of its own, and returns the name."""
    values = np.asarray(array, order="C")
    self._weights[name] = self._arrays.from_array(values, name)
    return name

  def cast(self, x: str, kind: str) -> str:
    """Converts to a type; see `input`."""
    return self.add("Cast", x, to=self._kind(kind))

  def dense(self, params: Params, x: str, name: str) -> str:
    """Applies a linear layer.

    Args:
      params: "kernel" and "bias".
      x: its input.
      name: what the names of its weights begin with.
    """
    kernel = self.weight(f"{name}.kernel", params["kernel"])
    y = self.add("MatMul", x, kernel)
    return self.add("Add", y, self.weight(f"{name}.bias", params["bias"]))

  def norm(self, params: Params, x: str, name: str, epsilon: float) -> str:
    """Applies LayerNorm to the last axis.

    Args:
      params: "scale" and "bias".
      x: its input.
      name: what the names of its weights begin with.
      epsilon: what is added to the variance.
    """
    scale = self.weight(f"{name}.scale", params["scale"])
    bias = self.weight(f"{name}.bias", params["bias"])
    return self.add(
      "LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon
    )

  def numbers(self, x: str, axis: int, start: int = 0) -> str:
    """Counts along an axis: start, start + 1, ... as many as it has places."""
    size = self.add("Shape", x, start=axis, end=axis + 1)
    stop = self.add("Add", self.add("Squeeze", size), self._scalar(start))
    return self.add("Range", self._scalar(start), stop, self._scalar(1))

  def up_to_largest(self, x: str) -> str:
    """Counts 1, 2, ... up to the largest number of an array."""
    stop = self.add(
      "Add", self.add("ReduceMax", x, keepdims=0), self._scalar(1)
    )
    return self.add("Range", self._scalar(1), stop, self._scalar(1))

  def take(self, x: str, index: int, axis: int) -> str:
    """Takes one place of an axis, which then is gone."""
    return self.add("Gather", x, self._scalar(index), axis=axis)

  def _scalar(self, value: int) -> str:
    return self.weight(f"scalar_{value}", np.array(value, np.int64))

  def _number(self, value: float | int | list[int]) -> str:
    kind = np.float32 if isinstance(value, float) else np.int64
    return self.weight(f"constant_{value}", np.array(value, kind, ndmin=1))

  def _value(self, name: str, kind: str, shape: Sequence[str | int]) -> Any:
    make = self._helper.make_tensor_value_info
    return make(name, self._kind(kind), list(shape))

  def _kind(self, name: str) -> int:
    return self._onnx.TensorProto.DataType.Value(name.upper())
