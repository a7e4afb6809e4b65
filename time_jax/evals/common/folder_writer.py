"""Writes the folder of a fine-tuned model; see `model_folder`."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np

from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.evals.common.encoders import (
  OpenedEncoder,
  encoder_tensors,
  write_encoder,
)
from time_jax.evals.common.model_folder import LINEAR
from time_jax.hf import (
  save,
  task_classes,
  tokenizer,
  tokenizer_class,
  tokenizer_pairs,
)
from time_jax.hf.fine_tuned import DESCRIPTION, FORMAT, HEADS
from time_jax.hf.task_classes import Head, TaskClass
from time_jax.models.family import Params
from time_jax.release import probe, task_folder
from time_jax.release.options import Options


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
  params = jax.device_get(params)
  description = {"format": FORMAT, **description}
  kind = _find_class(description["task"], opened)
  with atomic_folder(out, "--workdir") as fresh:
    path = fresh / DESCRIPTION
    atomic_file.write_json(path, description, indent=1, ensure_ascii=False)
    if kind:
      labels = itertools.chain.from_iterable(description["classes"].values())
      _write_class(fresh, opened, params, kind, [*labels])
    else:
      write_encoder(fresh, opened, params["encoder"])
      heads = flax.traverse_util.flatten_dict(params["heads"], sep="/")
      heads = jax.tree.map(np.ascontiguousarray, heads)
      save.write_safetensors(fresh / HEADS, heads)
    tokenizer_class.name_class(fresh, probe.TEXTS)
    task_folder.write_card(fresh, Options(name=str(out)))


def _find_class(task: str, opened: OpenedEncoder) -> TaskClass | None:
  """Returns the class of transformers that is the same network."""
  kind = task_classes.find(task, opened.hf_config.get("model_type", ""))
  # Without a template for pairs, transformers puts nothing between the texts.
  if (
    kind
    and kind.reads_pairs
    and not tokenizer_pairs.separates(opened.tokenizer)
  ):
    return None
  return kind


def _write_class(
  folder: pathlib.Path,
  opened: OpenedEncoder,
  params: Params,
  kind: TaskClass,
  labels: Sequence[str],
) -> None:
  """Writes encoder and head as transformers' class has them."""
  content = task_classes.make_config(opened.hf_config, kind, labels)
  atomic_file.write_json(folder / "config.json", content, sort_keys=True)
  tensors = task_classes.to_tensors(
    kind,
    encoder_tensors(opened, params["encoder"]),
    Head(**params["heads"][LINEAR]),
  )
  save.write_safetensors(folder / save.WEIGHTS, tensors)
  config = opened.config
  tokenizer.save_tokenizer(
    opened.folder, folder, opened.longest, config.vocab_size
  )
  if kind.reads_pairs:
    types = getattr(config, "num_token_types", 1)
    tokenizer_pairs.name_token_types(folder, types)
