"""The folder of a fine-tuned model: all that `predict` needs, and no more.

encoder/            config.json, model.safetensors, tokenizer
heads.safetensors   what was trained on top of it
task.json           task, classes, sizes, scores, where it came from
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
from time_jax.evals.common.encoders import Opened, open_encoder, write_encoder
from time_jax.hf import files
from time_jax.models import stepwise
from time_jax.models.family import Params
from time_jax.parallel import sharding

RECORD = "task.json"
_HEADS = "heads.safetensors"


def write_folder(
  out: pathlib.Path, opened: Opened, params: Params, record: Mapping[str, Any]
) -> None:
  """Writes a folder, whole or not at all.

  Args:
    out: the folder to be.
    opened: where the encoder came from.
    params: "encoder" and "heads".
    record: for task.json.
  """
  with atomic_folder(out, "--workdir") as fresh:
    (fresh / "encoder").mkdir()
    write_encoder(fresh / "encoder", opened, params["encoder"])
    flat = flax.traverse_util.flatten_dict(params["heads"], sep="/")
    tensors = {
      name: np.ascontiguousarray(jax.device_get(leaf))
      for name, leaf in flat.items()
    }
    safetensors.numpy.save_file(tensors, fresh / _HEADS)
    (fresh / _HEADS).chmod(0o644)  # It is written as private.
    text = atomic_file.as_json(record, indent=1, ensure_ascii=False) + "\n"
    (fresh / RECORD).write_text(text, encoding="utf-8")


def read_record(folder: pathlib.Path) -> dict[str, Any]:
  """What task.json says.

  Raises:
    UserError: it is no folder of a fine-tuned model.
  """
  if not (folder / RECORD).exists():
    raise UserError(
      explain_missing(folder)
      or f"{folder} holds no {RECORD}; expected the folder of a fine-tuned "
      "model, such as WORKDIR/seed-0/model of `time_jax finetune`."
    )
  record = files.read_json(folder / RECORD)
  missing = {"task", "heads", "classes", "buckets"} - set(record)
  if missing:
    raise UserError(
      f"{folder / RECORD} lacks {', '.join(sorted(missing))}; fine-tune again."
    )
  return record


def read_folder(
  folder: pathlib.Path, mesh: Mesh
) -> tuple[Opened, Params, dict[str, Any]]:
  """Reads what `write_folder` wrote.

  Returns:
    The encoder; the parameters of encoder, unstacked, and heads on the mesh;
    task.json.
  """
  record = read_record(folder)
  opened = open_encoder(str(folder / "encoder"), mesh=mesh, dtype=np.float32)
  try:
    flat = safetensors.numpy.load_file(folder / _HEADS)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{folder / _HEADS} cannot be read: {error}.") from error
  heads = flax.traverse_util.unflatten_dict(flat, sep="/")
  assert opened.params is not None, folder
  params = {
    "encoder": stepwise.unstack(opened.params),
    "heads": sharding.replicate(heads, mesh),
  }
  return opened, params, record
