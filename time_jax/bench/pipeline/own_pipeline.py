"""Our own pipelines, as a measuring process opens them."""

import functools
import pathlib

import jax

from time_jax.bench.pipeline import encoder_alone
from time_jax.bench.pipeline.measured import Opened
from time_jax.config.finetune import EngineName
from time_jax.evals.common.engine import JaxEngine
from time_jax.evals.predict.pipeline import open_pipeline


def load(folder: pathlib.Path, engine: EngineName, *, int8: bool) -> Opened:
  """Opens the folder of a fine-tuned model.

  Args:
    folder: see `open_pipeline`.
    engine: see `open_pipeline`.
    int8: see `open_pipeline`.

  Raises:
    UserError: see `open_pipeline`.
  """
  pipeline = open_pipeline(folder, engine, int8)
  encoder = pipeline.network.opened
  about = {
    "fingerprint": encoder.identity.value,
    "fingerprint_before": encoder.identity.known_before,
    "shape": encoder.shape,
    "parameters": encoder.parameters,
  }
  by_jax = isinstance(pipeline.engine, JaxEngine)
  return Opened(
    annotate=pipeline.annotate,
    platform=jax.default_backend() if by_jax else "cpu",
    about=about,
    encoder_pass=functools.partial(
      encoder_alone.make_pass, pipeline, folder, int8=int8
    ),
  )
