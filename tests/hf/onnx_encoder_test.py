"""Graphs of encoders give the hidden states that JAX gives."""

import os
import subprocess
import sys

import flax
import jax
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from time_jax.core.arrays import make_batch
from time_jax.hf import onnx_encoder, onnx_session
from time_jax.hf.onnx_graph import Graph
from time_jax.models import bert, stepwise
from time_jax.models.family import init_params
from time_jax.models.layers import ACTIVATIONS

ROBERTA = {"position_offset": 2, "num_token_types": 1}
ELECTRA = {"embedding_size": 8}


@pytest.mark.parametrize(
  "changes",
  [
    *({"activation": name} for name in ACTIVATIONS),
    ROBERTA,
    ELECTRA,
    {"num_layers": 1, "layer_norm_eps": 0.1},
  ],
  ids=str,
)
def test_packed_rows(changes):
  sizes = {"num_layers": 3, "num_heads": 2, "max_positions": 20} | changes
  config = bert.BertConfig(
    vocab_size=50, hidden_size=16, intermediate_size=32, **sizes
  )
  encoder = bert.Encoder(config, config.num_layers)
  boxed = jax.jit(lambda: init_params(encoder, jax.random.key(1)))()
  # Larger weights, and biases: where they are not 0, they matter.
  params = jax.tree.map(
    lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(2), leaf.shape),
    flax.linen.meta.unbox(boxed),
  )
  types = "token_types" if config.num_token_types > 1 else None
  graph = Graph()
  states = onnx_encoder.packed_states(graph, config, params, types)
  assert len(states) == config.num_layers + 1
  for i, state in enumerate(states):
    graph.output(f"state{i}", state, "float", ["rows", "tokens", 16])
  session = onnx_session.open_session(graph.model().SerializeToString())
  random = np.random.default_rng(0)
  for segments in (
    [[1, 1, 1, 2, 2, 3, 0, 0], [1, 0, 1, 2, 2, 2, 2, 2], [0] * 8],
    [[1] * 20],
    [[1]],
  ):
    tokens = random.integers(0, 50, np.shape(segments))
    batch = make_batch(tokens, np.array(segments))
    feeds = {
      "input_ids": tokens,
      "segment_ids": np.array(segments),
      "positions": batch.positions.astype(np.int64),
    }
    if types:
      feeds[types] = random.integers(0, 2, tokens.shape)
      batch = bert.Batch(
        *(batch.tokens, batch.segment_ids, batch.positions),
        feeds[types].astype(np.int32),
      )
    found = session.run([f"state{i}" for i in range(len(states))], feeds)
    expected = stepwise.states(encoder, stepwise.unstack(params), batch)
    real = np.array(segments) > 0
    for ours, theirs in zip(found, expected, strict=True):
      assert np.isfinite(ours).all()
      largest = np.abs(theirs[real]).max()
      assert np.abs(ours - theirs)[real].max() <= 1e-5 * largest


def test_as_many_threads_as_cores_and_none_spins(monkeypatch):
  graph = Graph()
  graph.output("y", graph.add("Neg", graph.input("x", "float", [1])), *FLOATS)
  model = graph.model().SerializeToString()
  monkeypatch.setattr(
    os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False
  )
  session = onnx_session.open_session(model)
  options = session.own.get_session_options()
  assert options.intra_op_num_threads == 3
  assert options.get_session_config_entry(onnx_session.SPINNING) == "0"


def test_denormal_numbers_are_0_in_onnxruntime_and_nowhere_else():
  # In a process of its own: only the first session of one sets its thread.
  program = """
import numpy as np
from time_jax.hf import onnx_graph, onnx_session

tiny = np.full(1, 1e-39, np.float32)
graph = onnx_graph.Graph()
double = graph.add("Mul", graph.input("x", "float", [1]), 2.0)
graph.output("y", double, "float", [1])
session = onnx_session.open_session(graph.model().SerializeToString())
print(*session.run(["y"], {"x": tiny})[0], *(2 * tiny > 0))
"""
  printed = subprocess.check_output([sys.executable, "-c", program], text=True)
  assert printed.split() == ["0.0", "True"]


FLOATS = "float", [1]
