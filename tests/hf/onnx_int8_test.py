"""Graphs in 8 bits: how they round, and that they run as fused nodes."""

import collections

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime
from onnxruntime import quantization

from time_jax.hf import onnx_int8, onnx_session
from time_jax.hf.onnx_graph import Graph

WIDTH = 24


@pytest.fixture
def random():
  return np.random.default_rng(0)


def layer(random, wide=WIDTH):
  kernel = random.normal(size=(WIDTH, wide)).astype(np.float32)
  kernel *= np.logspace(-3, 1, wide, dtype=np.float32)
  kernel[:, 1] = 0  # A column that has no largest number to divide by.
  return {"kernel": kernel, "bias": np.ones(wide, np.float32)}


def products(random):
  """Two layers of one input, one of what they give, and a bare product."""
  graph = Graph()
  x = graph.input("x", "float", ["rows", "tokens", WIDTH])
  first, second = (graph.dense(layer(random), x, name) for name in "ab")
  across = graph.add("Transpose", second, perm=[0, 2, 1])
  mixed = graph.add("MatMul", graph.add("MatMul", first, across), second)
  y = graph.dense(layer(random, wide=5), mixed, "c")
  graph.output("y", y, "float", ["rows", "tokens", 5])
  return graph.model()


def run(model, **feeds):
  session = onnx_session.open_session(model.SerializeToString())
  return session.run(["y"], feeds)[0]


def rounded(array, axis):
  """The nearest numbers with a scale for each largest number along an axis."""
  largest = np.abs(array).max(axis, keepdims=True)
  largest, unit = np.where(largest > 0, largest, 1), np.float32(1 / 127)
  return np.rint(array / largest / unit) * unit * largest


def test_a_product_is_that_of_rounded_rows_and_columns(random):
  params = layer(random)
  # Processors without VNNI cut off the sum of two large products side by side.
  params["kernel"][1::2] *= 1e-2
  graph = Graph()
  x = graph.input("x", "float", ["rows", "tokens", WIDTH])
  graph.output(
    "y", graph.dense(params, x, "a"), "float", ["rows", "tokens", WIDTH]
  )
  model = graph.model()
  x = random.normal(size=(2, 3, WIDTH)).astype(np.float32)
  x[0, 1] *= 1e4
  x[1, 2] = 0  # Padding may be so.
  exact = run(model, x=x)
  onnx_int8.to_int8(model)
  found = run(model, x=x)
  kernel = rounded(params["kernel"], 0)
  expected = rounded(x, -1) @ kernel + params["bias"]
  largest = np.abs(exact).max(-1, keepdims=True)
  assert (np.abs(found - expected) <= 1e-4 * largest).all()
  assert (np.abs(found - exact) <= 0.02 * largest).all()
  assert (found != exact).any()


def test_a_row_does_not_depend_on_those_beside_it(random):
  model = products(random)
  onnx_int8.to_int8(model)
  x = random.normal(size=(2, 3, WIDTH)).astype(np.float32)
  alone = run(model, x=x[:1])
  x[1] *= 1e5
  np.testing.assert_allclose(run(model, x=x)[:1], alone, rtol=1e-5)


def test_it_is_nearer_than_one_scale_for_all(random, tmp_path):
  model = products(random)
  quantization.quantize_dynamic(
    model,
    tmp_path / "library.onnx",
    op_types_to_quantize=["MatMul"],
    per_channel=True,
    weight_type=quantization.QuantType.QInt8,
  )
  x = random.normal(size=(2, 3, WIDTH)).astype(np.float32)
  x[0, 0] *= 30
  exact = run(model, x=x)
  onnx_int8.to_int8(model)
  theirs = run(onnx.load(tmp_path / "library.onnx"), x=x)
  errors = [np.abs(y - exact)[1].max() for y in (run(model, x=x), theirs)]
  assert 0 < errors[0] < 0.3 * errors[1]


def test_onnxruntime_fuses_them(random, tmp_path):
  """Left alone, the nodes around a product take longer than it saves."""
  model = products(random)
  onnx_int8.to_int8(model)
  options = onnxruntime.SessionOptions()
  options.optimized_model_filepath = str(tmp_path / "run.onnx")
  options.log_severity_level = 3
  onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
  )
  nodes = onnx.load(tmp_path / "run.onnx").graph.node
  kinds = collections.Counter(node.op_type for node in nodes)
  integer = {k: n for k, n in kinds.items() if "Quantize" in k or "Int" in k}
  assert integer == {
    "QuantizeLinear": 2,  # Two layers read one of them.
    "MatMulIntegerToFloat": 3,
  }
  assert "Cast" not in kinds and "DequantizeLinear" not in kinds


def test_a_row_of_a_table_is_rounded_by_its_own_largest(random):
  table = random.normal(size=(5, WIDTH)).astype(np.float32)
  table[1] *= 1e4
  table[2] = 0
  graph = Graph()
  ids = graph.input("ids", "int64", ["rows", "tokens"])
  rows = graph.add("Gather", graph.weight("table", table), ids)
  graph.output("y", rows, "float", ["rows", "tokens", WIDTH])
  model = graph.model()
  before = model.ByteSize()
  onnx_int8.to_int8(model)
  assert model.ByteSize() < before
  ids = np.array([[4, 0, 1], [2, 3, 1]])
  found = run(model, ids=ids)
  largest = np.abs(table[ids]).max(-1, keepdims=True)
  assert (np.abs(found - table[ids]) <= 0.501 / 127 * largest).all()
  assert (found != table[ids]).any()


def test_other_nodes_stay(random):
  """Whole numbers, vectors and arrays of more axes are no matrices."""
  graph = Graph()
  x = graph.input("x", "float", ["rows", 3, 4])
  cube = graph.weight("cube", np.ones((2, 4, 5), np.float32))
  counts = graph.weight("counts", np.arange(6).reshape(3, 2))
  graph.output("y", graph.add("MatMul", x, cube), "float", ["rows", 3, 5])
  graph.output("z", graph.take(counts, 1, axis=0), "int64", [2])
  model = graph.model()
  before = model.SerializeToString()
  onnx_int8.to_int8(model)
  assert model.SerializeToString() == before
