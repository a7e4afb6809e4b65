"""Our own pipelines, as a measuring process opens them."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from time_jax.bench.pipeline.measured import Opened, Work
from time_jax.evals.common import batches
from time_jax.evals.common.engine import JaxEngine
from time_jax.evals.predict.pipeline import Pipeline, open_pipeline
from time_jax.models import stepwise
from time_jax.parallel import sharding


def load(folder: pathlib.Path) -> Opened:
  """Opens the folder of a fine-tuned model.

  Args:
    folder: see `open_pipeline`.
  """
  pipeline = open_pipeline(folder, engine="jax")
  encoder = pipeline.network.opened
  about = {
    "fingerprint": encoder.identity.value,
    "fingerprint_before": encoder.identity.known_before,
    "shape": encoder.shape,
    "parameters": encoder.parameters,
  }
  return Opened(
    annotate=pipeline.annotate,
    platform=jax.default_backend(),
    about=about,
    encoder_pass=functools.partial(encoder_pass, pipeline),
  )


def encoder_pass(pipeline: Pipeline, items: Sequence[Any]) -> Work:
  """Returns a function that runs the encoder alone, a batch after the other.

  Args:
    pipeline: a pipeline that JAX computes.
    items: sentences, whose rows of tokens are those that the pipeline makes.
  """
  network = pipeline.network
  rows = [host.batch for _, host in network.prepare(items).batches]
  encoder = network.opened.encoder
  encode = jax.jit(functools.partial(stepwise.last_state, encoder))
  assert isinstance(pipeline.engine, JaxEngine), pipeline.computed_by
  params = pipeline.engine.params["encoder"]

  def run() -> None:
    with sharding.use_mesh(network.mesh):
      for row in rows:
        placed = batches.place(row, network.mesh)
        jax.block_until_ready(encode(params, placed))

  return run
