"""ONNX graphs that multiply by their weights in 8 bits.

A weight has a scale for every column, and what it is multiplied with one for
every row, a token: both are divided by their largest numbers. With one scale
for a whole array, as `onnxruntime.quantization.quantize_dynamic` has it, the
largest number of one token would decide how roughly all others are rounded,
and so what is computed for a sentence would depend on those beside it
(per-token scales: Yao et al., "ZeroQuant", arXiv 2206.01861, section 4.1).
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from time_jax.core.storage.paths import Path
from time_jax.hf.onnx_names import BESIDE
from time_jax.hf.onnx_session import require

# Weights use the whole range of 8 bits, and 0 stays 0. x86 processors without
# VNNI add two products at a time in 16 bits and cut off what exceeds them: the
# sum for two large weights side by side under two large activations, a rare
# case. With 7 bits there is none, but all weights are rounded twice as roughly.
_LARGEST = 127
_ZERO = 128  # what stands for 0 in a row: products of unsigned ones are faster


def to_int8(model: Any, exact: Collection[str] = ()) -> None:
  """Changes a graph to multiply by its weights in 8 bits.

  A weight has a scale for every column, an embedding table one for every row,
  and so has what is computed. Other than by the rounding of float32, a row does
  not depend on the rows beside it.

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
    location=f"{target.name}{BESIDE}",
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
    # onnxruntime makes one node of the three that are about 8 bits.
    if x not in self._activations:
      self._activations.add(x)
      self._round_rows(x)
    matrix, scales = self._rounded(weight, axis=0)
    kernel = f"{matrix}.rounded"
    self._add("DequantizeLinear", [matrix, scales], [kernel], axis=1)
    self._add("MatMul", [f"{x}.rounded", kernel], [f"{result}.even"])
    self._add("Mul", [f"{result}.even", f"{x}.largest"], [result])

  def _round_rows(self, x: str) -> None:
    """Adds the rows of an array, divided by their largest numbers, in 8 bits.

    They are called `x.rounded`, and the largest numbers `x.largest`.
    """
    last = self._constant("last_axis", [-1], np.int64)
    tiny = self._constant("tiny", [np.finfo(np.float32).tiny], np.float32)
    scale = self._constant("row.scale", 1 / _LARGEST, np.float32)
    zero = self._constant("row.zero", _ZERO, np.uint8)
    self._add("Abs", [x], [f"{x}.abs"])
    self._add("ReduceMax", [f"{x}.abs", last], [f"{x}.max"], keepdims=1)
    self._add("Max", [f"{x}.max", tiny], [f"{x}.largest"])
    self._add("Div", [x, f"{x}.largest"], [f"{x}.even"])
    self._add("QuantizeLinear", [f"{x}.even", scale, zero], [f"{x}.int8"])
    self._add("DequantizeLinear", [f"{x}.int8", scale, zero], [f"{x}.rounded"])

  def _take_rows(self, weight: str, index: str, result: str) -> None:
    table, scales = self._rounded(weight, axis=1)
    self._add("Gather", [table, index], [f"{result}.int8"])
    self._add("Gather", [scales, index], [f"{result}.scales"])
    kind = self._onnx.TensorProto.FLOAT
    self._add("Cast", [f"{result}.int8"], [f"{result}.float"], to=kind)
    self._add("Mul", [f"{result}.float", f"{result}.scales"], [result])

  def _constant(self, name: str, value: Any, kind: Any) -> str:
    """Adds an array once, and returns its name."""
    array = np.asarray(value, kind)
    self.weights.setdefault(name, self._arrays.from_array(array, name))
    return name

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
