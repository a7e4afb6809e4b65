"""Writes and reads the folder of a fine-tuned model.

It holds all that `predict` needs, in the files of transformers:

config.json, model.safetensors, tokenizer
heads.safetensors   what was trained on top of the encoder, see below
task.json           task, classes, sizes, scores, provenance
README.md           the model card

Where transformers has a class that is the same network (see `task_classes`),
config.json names it, and model.safetensors has the head, too. Elsewhere these
are the encoder alone. Before format 2 all of them lay in a folder `encoder`.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from time_jax.core.display import first_of
from time_jax.core.errors import DAMAGED_JSON, UserError, kind_and_reason
from time_jax.core.storage.paths import local_path
from time_jax.evals.common.encoders import (
  OpenedEncoder,
  open_encoder,
)
from time_jax.evals.common.task import Network
from time_jax.hf import (
  files,
  task_classes,
)
from time_jax.hf.fine_tuned import DESCRIPTION, HEADS
from time_jax.hf.weights import Weights
from time_jax.models import stepwise
from time_jax.models.family import Params

_BEFORE = "encoder"  # where the encoder was in format 1
_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")  # of the hub's models
LINEAR = "Dense_0"  # as flax calls the one layer of the heads of ner and qa
_PROBLEMS_SHOWN = 3


def find(name: str) -> pathlib.Path:
  """Returns the folder of a model, which is downloaded if need be.

  Args:
    name: a folder; or OWNER/NAME[@REVISION] on the hub, unless there is a
      folder OWNER here.

  Raises:
    UserError: it is an address, or no model of the hub.
  """
  folder = local_path(name)
  is_id = _ID.fullmatch(name) and not folder.parent.is_dir()
  return files.resolve(name) if is_id else folder


def encoder_folder(folder: pathlib.Path) -> pathlib.Path:
  """Returns where config.json and the tokenizer of a fine-tuned model are."""
  before = folder / _BEFORE
  present = (folder / "config.json").exists() or not before.is_dir()
  return folder if present else before


def read_model(
  folder: pathlib.Path, mesh: Mesh
) -> tuple[OpenedEncoder, Params]:
  """Reads the encoder and the heads that `write_folder` wrote.

  Returns:
    The encoder; the parameters of encoder, unstacked, and heads on the host.

  Raises:
    UserError: there is no such model, or its weights are not finite.
  """
  opened = open_encoder(
    str(encoder_folder(folder)), mesh=mesh, dtype=np.float32
  )
  assert opened.params is not None, folder
  params = {
    # Blocks of an array on the host are views; on a device, programs.
    "encoder": stepwise.unstack(jax.device_get(opened.params)),
    "heads": _read_heads(folder, opened.hf_config),
  }
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise UserError(
      f"the weights of {folder} hold NaN or infinity, so that nothing can be "
      "predicted with them; expected finite numbers, as in a fresh copy of the "
      "folder."
    )
  return opened, params


def _read_heads(folder: pathlib.Path, hf_config: Mapping[str, Any]) -> Params:
  """Returns the parameters of the heads."""
  apart = encoder_folder(folder) != folder
  if not apart and task_classes.of_config(hf_config):
    with Weights(folder) as weights:
      return {LINEAR: task_classes.read_head(weights, hf_config)._asdict()}
  try:
    flat = safetensors.numpy.load_file(folder / HEADS)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{folder / HEADS} cannot be read: {error}.") from error
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def check_heads(folder: pathlib.Path, network: Network, heads: Params) -> None:
  """Checks that heads have the shapes that task.json asks for.

  Args:
    folder: the folder that all of it was read from.
    network: the network of its task.json and its encoder.
    heads: the parameters of its heads, on the host.

  Raises:
    UserError: one has another shape, is missing or unknown; or task.json tells
      of no heads at all.
  """
  remedy = "copy the folder once more, or fine-tune again"
  try:
    needed = jax.eval_shape(lambda: network.fresh_heads(jax.random.key(0)))
  except DAMAGED_JSON as error:
    raise UserError(
      f"{folder / DESCRIPTION}: heads and classes describe no network "
      f"({kind_and_reason(error)}); expected them as `finetune` wrote them: "
      f"{remedy}."
    ) from error
  found, wanted = _shapes(heads), _shapes(nn.meta.unbox(needed))
  problems = [
    f"{name} is {found.get(name, 'missing')}, expected "
    f"{wanted.get(name, 'none')}"
    for name in sorted({*found, *wanted})
    if found.get(name) != wanted.get(name)
  ]
  if problems:
    shown = first_of(problems, _PROBLEMS_SHOWN)
    raise UserError(
      f"the heads in {folder} do not fit the classes and sizes of its "
      f"{DESCRIPTION}: {shown}. Undo what was changed, {remedy}."
    )


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
  """Returns name in the file -> shape of every parameter."""
  flat: Any = flax.traverse_util.flatten_dict(tree, sep="/")
  return {name: leaf.shape for name, leaf in flat.items()}
