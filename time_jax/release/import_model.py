"""Imports a model folder as a workdir, as if a run had saved a checkpoint."""

import dataclasses
import json
from typing import Any

import flax
import jax
import jax.numpy as jnp

from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config.distill import default_config
from time_jax.config.recorded import completed, lacking
from time_jax.core import nonfinite
from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder, check_empty
from time_jax.core.storage.paths import Path
from time_jax.hf import (
  files,
  lineage,
  load,
  model_identity,
  save,
  tokenizer,
  weight_files,
)
from time_jax.hf.weights import Weights
from time_jax.models.bert import BertConfig
from time_jax.parallel import sharding
from time_jax.release.record import RECORD, read_record
from time_jax.run import first_weights, imported_model, run_files
from time_jax.starts import fitting


def import_command(name: str, workdir: Path, allow_pickle: bool = False) -> int:
  """Makes a workdir from a model, to be distilled further or exported.

  Args:
    name: a folder, package or hub id, see `files.resolve`.
    workdir: folder to write; new or empty.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there is no such model, it is not built like a student, or the
      workdir is not empty.
  """
  check_empty(workdir, "--workdir")
  folder = files.resolve(name, allow_pickle)
  _, config = load.read_config(folder)
  fitting.check_architecture(config, name)
  _, params = load.load_encoder(
    folder,
    dtype=jnp.dtype("float32"),
    mesh=sharding.make_mesh(),
    allow_pickle=allow_pickle,
  )
  nonfinite.check_first_weights(params, name)
  arrays = dict(model_identity.student_arrays(config, params))
  params = jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(arrays))
  config = dataclasses.replace(
    config,
    position_offset=0,
    embedding_size=None,
    num_token_types=model_identity.TOKEN_TYPES,
  )
  with atomic_folder(workdir, "--workdir", replace=False) as fresh:
    if tokenizer.has_tokenizer(folder):
      tokenizer.save_tokenizer(
        folder, fresh / "tokenizer", config.max_positions, config.vocab_size
      )
    record = read_record(folder) or {}
    imported = _describe(name, folder, allow_pickle) | {
      "facts": record.get("facts") or {},
      "words": _vocabulary(name, folder),
      "identity": model_identity.of_student(
        config,
        model_identity.arrays_sha256(config, params),
        model_identity.tokenizer_sha256(fresh / "tokenizer", config.vocab_size),
      ),
    }
    if record.get("identity", imported["identity"]) != imported["identity"]:
      raise UserError(
        f"{folder / RECORD} is of other weights or another tokenizer than "
        f"this folder holds (identity {record['identity'][:12]}, found "
        f"{imported['identity'][:12]}); delete that file to import what is "
        "there as a model of its own, or export the student again."
      )
    run = record.get("run") or {}
    atomic_file.write_json(fresh / "config.json", _run_config(run, config))
    run_files.write_shape(fresh, config)
    imported_model.mark_imported(fresh, imported)
    metadata = {
      "run": run,
      "versions": record.get("versions") or {},
      "hardware": record.get("hardware") or {},
      "imported": imported,
    }
    with CheckpointWriter(fresh, keep_latest=1, keep_every=1) as checkpoints:
      checkpoints.save(0, {"params": params}, metadata, wait=True)
  print(
    f"Imported {name} to {workdir} as step 0: {config.num_layers} layers of "
    f"{config.hidden_size}, {config.vocab_size:,} tokens"
  )
  print(f"Next: python -m time_jax export --workdir={workdir}")
  print(
    "  or: python -m time_jax distill --config=RECIPE of the same shape "
    f"--workdir={workdir}"
  )
  return 0


def _describe(name: str, folder: Path, allow_pickle: bool) -> dict[str, Any]:
  """Describes the folder, for the record of the workdir made from it."""
  with Weights(folder, allow_pickle) as weights:
    dtype = weights.info(next(iter(weights))).dtype
  bert = files.model_config(folder)["model_type"] == "bert"
  return {
    "from": lineage.shown_path(name),
    "sha256": weight_files.fingerprint(folder, allow_pickle),
    "class": "BertModel" if bert else "XLMRobertaModel",
    "dtype": dtype if dtype in save.DTYPES else "float32",
  }


def _vocabulary(name: str, folder: Path) -> str:
  """Returns the recorded hash of a model's vocabulary.

  Returns:
    The hash; "" if there is a tokenizer to hash instead, or no record.
  """
  if tokenizer.has_tokenizer(folder):
    return ""
  vocabulary = first_weights.recorded_vocabulary_sha256(folder)
  if not vocabulary:
    note(
      f"{name} has no tokenizer and no record of its vocabulary, so nobody can "
      "tell later whether its tokens are those of a teacher or a text."
    )
  return vocabulary


def _run_config(run: dict[str, Any], config: BertConfig) -> dict[str, Any]:
  """Returns the config of the model's run, or defaults with its sizes."""
  content = completed(
    {k: v for k, v in run.items() if not k.endswith("(SHA-256)")}
  )
  if lacking(run):
    content = json.loads(default_config().to_json())
  sizes = dataclasses.asdict(config)
  student = content["student"]
  student |= {name: sizes[name] for name in student if name in sizes}
  return content
