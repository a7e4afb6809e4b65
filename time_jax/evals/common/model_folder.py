"""Writes and reads the folder of a fine-tuned model.

It holds all that `predict` needs, and no more:

encoder/            config.json, model.safetensors, tokenizer
heads.safetensors   what was trained on top of it
task.json           task, classes, sizes, scores, provenance
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder, explain_missing
from time_jax.evals.common.encoders import (
  OpenedEncoder,
  open_encoder,
  write_encoder,
)
from time_jax.hf import files
from time_jax.models import stepwise
from time_jax.models.family import Params

DESCRIPTION = "task.json"
_HEADS = "heads.safetensors"


def write_folder(
  out: pathlib.Path,
  opened: OpenedEncoder,
  params: Params,
  description: Mapping[str, Any],
) -> None:
  """Writes a folder, whole or not at all.

  Args:
    out: the folder, which is replaced.
    opened: the encoder that was fine-tuned.
    params: "encoder" and "heads".
    description: the content of task.json.
  """
  with atomic_folder(out, "--workdir") as fresh:
    (fresh / "encoder").mkdir()
    write_encoder(fresh / "encoder", opened, params["encoder"])
    flat = flax.traverse_util.flatten_dict(params["heads"], sep="/")
    tensors = jax.tree.map(np.ascontiguousarray, jax.device_get(flat))
    safetensors.numpy.save_file(tensors, fresh / _HEADS)
    (fresh / _HEADS).chmod(0o644)  # It is written as private.
    path = fresh / DESCRIPTION
    atomic_file.write_json(path, description, indent=1, ensure_ascii=False)


def read_description(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the content of task.json.

  Raises:
    UserError: the folder is not that of a fine-tuned model.
  """
  path = folder / DESCRIPTION
  if not path.exists():
    raise UserError(
      explain_missing(folder)
      or f"{folder} holds no {DESCRIPTION}; expected the folder of a "
      "fine-tuned model, such as WORKDIR/seed-0/model of `time_jax finetune`."
    )
  description = files.read_json(path)
  missing = {"task", "heads", "classes", "buckets"} - set(description)
  if missing:
    raise UserError(
      f"{path} lacks {', '.join(sorted(missing))}; fine-tune again."
    )
  lengths = description["buckets"]
  if (
    not isinstance(lengths, list)
    or not lengths
    or not all(isinstance(length, int) and length > 0 for length in lengths)
  ):
    raise UserError(
      f"{path}: buckets is {lengths!r:.60}; expected lengths in tokens, such "
      "as [32, 64]: fine-tune again."
    )
  return description


def read_model(
  folder: pathlib.Path, mesh: Mesh
) -> tuple[OpenedEncoder, Params]:
  """Reads the encoder and the heads that `write_folder` wrote.

  Returns:
    The encoder; the parameters of encoder, unstacked, and heads on the host.

  Raises:
    UserError: there is no such model, or its weights are not finite.
  """
  opened = open_encoder(str(folder / "encoder"), mesh=mesh, dtype=np.float32)
  try:
    flat = safetensors.numpy.load_file(folder / _HEADS)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{folder / _HEADS} cannot be read: {error}.") from error
  heads = flax.traverse_util.unflatten_dict(flat, sep="/")
  assert opened.params is not None, folder
  params = {
    # Blocks of an array on the host are views; on a device, programs.
    "encoder": stepwise.unstack(jax.device_get(opened.params)),
    "heads": heads,
  }
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise UserError(
      f"the weights of {folder} hold NaN or infinity, so that nothing can be "
      "predicted with them; expected finite numbers, as in a fresh copy of the "
      "folder."
    )
  return opened, params
