"""A fine-tuned model that never was: random weights, for its speed alone."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from time_jax.bench.common import random_shapes
from time_jax.bench.pipeline.gold import KINDS, Gold
from time_jax.config.finetune import ner_config, ud_config
from time_jax.core.storage import atomic_file
from time_jax.evals.common import folder_writer
from time_jax.evals.common.batches import make_buckets
from time_jax.evals.common.encoders import open_encoder
from time_jax.hf import files, save, tokenizer
from time_jax.parallel import sharding

_RECIPES = {"ud": ud_config, "ner": ner_config}


def write(out: pathlib.Path, spec: str, tokens: str, gold: Gold) -> None:
  """Writes the folder that `finetune` would write for an encoder.

  Its heads have the sizes of the recipe, and the classes of the gold file.

  Args:
    out: folder to write, inside one that exists.
    spec: shape of the encoder; see `random_shapes.shape`.
    tokens: folder, hub id or package with the tokenizer.
    gold: the file whose classes are learnt.

  Raises:
    UserError: there is no such shape or no such tokenizer.
  """
  shape = out.parent / f"{out.name}.shape"
  _write_shape(shape, spec, tokenizer.folder_of(files.resolve(tokens)))
  mesh = sharding.make_mesh()
  opened = open_encoder(str(shape), mesh=mesh, dtype=np.float32, random=True)
  config = _RECIPES[gold.task]()
  buckets = make_buckets(config.data.buckets, opened.longest, mesh)
  data = {"train": gold.items}
  task = KINDS[gold.task](config, data, opened, buckets, mesh)
  params: Any = nn.meta.unbox(task.fresh(jax.random.key(0)))
  description = {
    "task": gold.task,
    **task.spec,
    "buckets": list(buckets.lengths),
  }
  folder_writer.write_folder(out, opened, params, description)


def _write_shape(folder: pathlib.Path, spec: str, tokens: pathlib.Path) -> None:
  """Writes config.json and the tokenizer of an encoder without weights."""
  own = tokenizer.load_alone(tokens)
  size = max(own.vocab_size, random_shapes.vocabulary(spec))
  config = random_shapes.shape(spec, size)
  folder.mkdir()
  content = save.hf_config(config, {"pad_token_id": own.pad_id})
  atomic_file.write_json(folder / "config.json", content)
  tokenizer.save_tokenizer(
    tokens, folder, config.max_positions, config.vocab_size
  )
