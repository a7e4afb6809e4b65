"""The encoder of a pipeline without its heads: the floor of its time."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from time_jax.bench.pipeline.measured import Work
from time_jax.core.arrays import Batch
from time_jax.evals.common import model_folder, onnx_engine
from time_jax.evals.common.engine import Engine, JaxEngine
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.task import Network
from time_jax.evals.predict.pipeline import Pipeline
from time_jax.hf.onnx_encoder import packed_states
from time_jax.hf.onnx_graph import Graph
from time_jax.models import stepwise
from time_jax.models.family import Params

_NAME = "encoder"  # of the program


def make_pass(
  pipeline: Pipeline, folder: pathlib.Path, items: Sequence[Any], *, int8: bool
) -> Work:
  """Returns a function that runs the encoder alone, a batch after the other.

  The engine is that of the pipeline, and so are the rows of tokens.

  Args:
    pipeline: a pipeline.
    folder: the folder that it was opened from.
    items: sentences.
    int8: whether the pipeline is in 8 bits.
  """
  network = pipeline.network
  rows = [host.batch for _, host in network.prepare(items).batches]
  if isinstance(pipeline.engine, JaxEngine):
    alone = _with_jax(network, pipeline.engine.params)
  else:
    # The pipeline has its parameters in its graphs alone.
    _, params = model_folder.read_model(folder, network.mesh)
    alone = _with_onnxruntime(network, params[_NAME], int8=int8)

  def run() -> None:
    for row in rows:
      jax.block_until_ready(alone.start(_NAME, row))

  return run


def _with_jax(network: Network, params: Params) -> Engine:
  encoder = network.opened.encoder

  def program(params: Params, batch: Batch) -> jax.Array:
    return stepwise.last_state(encoder, params["encoder"], batch)

  return JaxEngine({_NAME: jax.jit(program)}, params, network.mesh)


def _with_onnxruntime(
  network: Network, params: Params, *, int8: bool
) -> Engine:
  graph, config = Graph(), network.opened.config
  *_, last = packed_states(graph, config, params)
  graph.output("state", last, "float", ["rows", "tokens", config.hidden_size])
  programs = {_NAME: Program(graph, "state")}
  return onnx_engine.make_engine(programs, params, int8=int8)
