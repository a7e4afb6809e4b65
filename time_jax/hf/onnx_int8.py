"""ONNX graphs that multiply by their weights in 8 bits.

What `onnxruntime.quantization.quantize_dynamic` makes of products of matrices,
number for number, but without a Python loop over all columns of all weights and
without files in between, which took most of the time to open a model. Unlike
there, each row of an embedding table has a scale, too, not the table alone.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from time_jax.core.storage.paths import Path
from time_jax.hf.onnx_packages import require

# Weights use the whole range of 8 bits, and 0 stays 0. x86 processors without
# VNNI add two products at a time in 16 bits and cut off what exceeds them: the
# sum for two large weights side by side under two large activations, a rare
# case. With 7 bits there is none, but all weights are rounded twice as roughly.
_LARGEST = 127


def to_int8(model: Any, exact: Collection[str] = ()) -> None:
  """Changes a graph to multiply by its weights in 8 bits.

  A weight has a scale for every column, an embedding table one for every row.
  An activation gets one for each array that is computed, so what is computed
  for a row depends on the rows beside it.

  Args:
    model: an `onnx.ModelProto`, its weights within.
    exact: names of weights that are left as they are.

  Raises:
    UserError: onnx is not installed.
  """
  graph = model.graph
  changed = _Changed(graph, exact)
  for node in graph.node:
    changed.take(node)
  used = {name for node in changed.nodes for name in node.input}
  kept = [w for w in graph.initializer if w.name in used]
  for field, values in (
    (graph.node, changed.nodes),
    (graph.initializer, [*kept, *changed.weights.values()]),
  ):
    del field[:]
    field.extend(values)


def write_int8(
  path: Path, target: Path, *, large: bool, exact: Collection[str] = ()
) -> None:
  """Writes a graph in 8 bits; see `to_int8`.

  Args:
    path: file of the graph.
    target: file of the one in 8 bits.
    large: whether weights lie beside the graph; see `onnx_graph.is_large`.
    exact: see `to_int8`.

  Raises:
    UserError: onnx is not installed.
  """
  (onnx,) = require("onnx")
  model = onnx.load(str(path))
  to_int8(model, exact)
  onnx.save(
    model,
    str(target),
    save_as_external_data=large,
    location=f"{target.name}.data",
  )


class _Changed:
  """The nodes and weights of a graph as they are changed.

  Attributes:
    nodes: the nodes.
    weights: the weights in 8 bits and their scales, by name.
  """

  def __init__(self, graph: Any, exact: Collection[str]) -> None:
    self._onnx, self._helper, self._arrays = require(
      "onnx", "onnx.helper", "onnx.numpy_helper"
    )
    kind = self._onnx.TensorProto.FLOAT
    self._matrices = {
      weight.name: weight
      for weight in graph.initializer
      if weight.data_type == kind
      and len(weight.dims) == 2
      and weight.name not in exact
    }
    self.nodes: list[Any] = []
    self.weights: dict[str, Any] = {}
    self._activations: set[str] = set()

  def take(self, node: Any) -> None:
    """Adds a node, or what stands in its place."""
    names = [*node.input, *node.output]
    if node.op_type == "MatMul" and node.input[1] in self._matrices:
      self._multiply(*names)
    elif node.op_type == "Gather" and node.input[0] in self._matrices:
      self._take_rows(*names)
    else:
      self.nodes.append(node)

  def _multiply(self, x: str, weight: str, result: str) -> None:
    # onnxruntime makes one or two nodes of all these and of the bias.
    activation = [f"{x}.int8", f"{x}.scale", f"{x}.zero"]
    if x not in self._activations:
      self._activations.add(x)
      self._add("DynamicQuantizeLinear", [x], activation)
    small, scale, zero = activation
    matrix, scales = self._rounded(weight, axis=0)
    self._add("MatMulInteger", [small, matrix, zero], [f"{result}.int32"])
    self._add("Mul", [scale, scales], [f"{result}.scales"])
    self._scale(f"{result}.int32", f"{result}.scales", result)

  def _take_rows(self, weight: str, index: str, result: str) -> None:
    table, scales = self._rounded(weight, axis=1)
    self._add("Gather", [table, index], [f"{result}.int8"])
    self._add("Gather", [scales, index], [f"{result}.scales"])
    self._scale(f"{result}.int8", f"{result}.scales", result)

  def _scale(self, x: str, scales: str, result: str) -> None:
    kind = self._onnx.TensorProto.FLOAT
    self._add("Cast", [x], [f"{x}.float"], to=kind)
    self._add("Mul", [f"{x}.float", scales], [result])

  def _add(
    self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any
  ) -> None:
    node = self._helper.make_node(kind, inputs, outputs, **attributes)
    self.nodes.append(node)

  def _rounded(self, name: str, axis: int) -> list[str]:
    """Adds a weight in 8 bits and its scales along an axis."""
    values = self._arrays.to_array(self._matrices[name])
    largest = np.abs(values).max(axis, keepdims=axis > 0).astype(np.float64)
    scales = (largest / _LARGEST).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1
    whole = np.rint(values / scales).astype(np.int8)
    found = {f"{name}.int8": whole, f"{name}.scales": scales}
    for key, array in found.items():
      self.weights[key] = self._arrays.from_array(array, key)
    return [*found]
