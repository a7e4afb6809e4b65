"""First weights of a student that is narrower than its teacher.

They are computed once, by one process, and kept as a model's folder, from which
every process reads them as it reads those of any other model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.core import nonfinite
from time_jax.core.arrays import Batch, make_batch
from time_jax.core.storage.paths import Path
from time_jax.data import pipeline
from time_jax.hf import load
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.starts import narrowing

# Tokens of training text that the weights are fitted on: several for each
# of the hundreds to thousands of inputs of a layer.
_TOKENS = 16_384
# In the folder of a run; `start` writes those of other students there, too.
FOLDER = "start"
BASIS = "basis.safetensors"  # E of `starts.basis`, in that folder.


def local_mesh() -> Mesh:
  """Returns a mesh of one device of this process alone."""
  return sharding.make_mesh(devices=jax.local_devices()[:1])


def narrow(
  config: ConfigDict,
  folder: Path,
  layers: Sequence[int],
  fresh: Params,
  shape: BertConfig,
  rows: pipeline.Rows,
) -> narrowing.Narrowed:
  """Computes a student's first weights from its teacher's, in one process.

  Args:
    config: config of the student.
    folder: the teacher's.
    layers: the teacher's layer for each one of the student.
    fresh: random parameters of the student.
    shape: sizes of the student.
    rows: training text, of which the first rows are read.

  Raises:
    UserError: the teacher's weights are not finite.
  """
  encoder, params = load.load_encoder(
    folder,
    dtype=jnp.dtype("float32"),
    mesh=local_mesh(),
    allow_pickle=config.teacher.allow_pickle,
  )
  nonfinite.check_first_weights(params, config.student.init_from)
  return narrowing.narrow(
    params,
    encoder.config,
    fresh,
    shape,
    layers,
    first_rows(rows, config.data.seq_len),
    config.student.narrowing,
  )


def first_rows(rows: pipeline.Rows, seq_len: int) -> Batch:
  """Returns the first rows of a text, some thousand tokens.

  Args:
    rows: all rows.
    seq_len: tokens of a row.
  """
  number = min(len(rows), rows_needed(seq_len))
  first = next(pipeline.sequential_batches(rows, number))
  return make_batch(first["tokens"], first["segment_ids"])


def rows_needed(seq_len: int) -> int:
  """Returns how many rows `first_rows` reads, if there are so many.

  Args:
    seq_len: tokens of a row.
  """
  return max(1, _TOKENS // seq_len)
