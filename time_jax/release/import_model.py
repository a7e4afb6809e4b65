"""A model folder -> a workdir with a checkpoint, as if a run had saved it."""

import dataclasses
import json
import pathlib
from typing import Any

import jax.numpy as jnp

from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.config.distill import completed, default_config, lacking
from time_jax.core import nonfinite
from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.hf import files, lineage, load, model_hash, save, tokenizer
from time_jax.hf.weights import Weights
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.release import checks
from time_jax.run import first_weights, imported_model, run_files


def import_command(
  name: str, workdir: pathlib.Path, allow_pickle: bool = False
) -> int:
  """Makes a workdir of a model, to distil on, evaluate or export.

  Args:
    name: see `files.resolve`.
    workdir: new or empty.
    allow_pickle: see `files.weight_files`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no such model, not one that a student could be, or a workdir
      that holds something.
  """
  _check_target(workdir)
  folder = files.resolve(name, allow_pickle)
  _, found = load.read_config(folder)
  first_weights.check_architecture(found, name)
  _, params = load.load_encoder(
    folder,
    dtype=jnp.dtype("float32"),
    mesh=sharding.make_mesh(),
    allow_pickle=allow_pickle,
  )
  nonfinite.check_first_weights(params, name)
  shape, params = _as_student(found, params)
  with atomic_folder(workdir, "--workdir") as fresh:
    _write(fresh, name, folder, shape, params, allow_pickle)
    _check_target(workdir)  # A run may have begun there meanwhile.
  print(
    f"Imported {name} to {workdir} as step 0: {shape.num_layers} layers of "
    f"{shape.hidden_size}, {shape.vocab_size:,} words"
  )
  print(f"Next: python -m time_jax export --workdir={workdir}")
  print(
    "  or: python -m time_jax distill --config=RECIPE of the same shape "
    f"--workdir={workdir}"
  )
  return 0


def _check_target(workdir: pathlib.Path) -> None:
  if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise UserError(
      f"--workdir={workdir} holds something; expected a new or empty folder."
    )


def _as_student(found: BertConfig, params: Params) -> tuple[BertConfig, Params]:
  """In the form of students: positions from row 0 on, two token types.

  What a model does not have, and no text needs, is zero: the second token type,
  the pooler.
  """
  width, kinds = found.hidden_size, 2
  embeddings = dict(params["embeddings"])
  table = embeddings["position"]["embedding"]
  embeddings["position"] = {"embedding": table[found.position_offset :]}
  types = embeddings["token_type"]["embedding"][:kinds]
  more = jnp.zeros((kinds - len(types), width))
  embeddings["token_type"] = {"embedding": jnp.concatenate([types, more])}
  nothing = {"kernel": jnp.zeros((width, width)), "bias": jnp.zeros(width)}
  pooler = params.get("pooler", nothing)
  shape = dataclasses.replace(
    found, position_offset=0, embedding_size=None, num_token_types=kinds
  )
  return shape, dict(params) | {"embeddings": embeddings, "pooler": pooler}


def _write(
  workdir: pathlib.Path,
  name: str,
  folder: pathlib.Path,
  shape: BertConfig,
  params: Params,
  allow_pickle: bool,
) -> None:
  if tokenizer.has_tokenizer(folder):
    tokenizer.save_tokenizer(
      folder, workdir / "tokenizer", shape.max_positions, shape.vocab_size
    )
  record = checks.read_record(folder) or {}
  words = model_hash.tokenizer_sha256(workdir / "tokenizer", shape.vocab_size)
  arrays = model_hash.arrays_sha256(shape, params)
  model = model_hash.of_student(shape, arrays, words)
  trained_with = ""
  if not words:
    trained_with = first_weights.recorded_vocabulary_sha256(folder)
    if not trained_with:
      note(
        f"{name} has no tokenizer and says of no vocabulary, so nobody can "
        "tell later whether its words are those of a teacher or a text."
      )
  if (said := record.get("identity", model)) != model:
    raise UserError(
      f"{folder / checks.RECORD} is of other weights or another tokenizer than "
      f"this folder holds (identity {said[:12]}, found {model[:12]}); delete "
      "that file to import what is there as a model of its own, or export the "
      "student again."
    )
  config = _config(record.get("run") or {}, shape)
  atomic_file.write_json(workdir / "config.json", config)
  run_files.write_shape(workdir, shape)
  with Weights(folder, allow_pickle) as weights:
    dtype = weights.info(next(iter(weights))).dtype
  hf_config = files.model_config(folder)
  roberta = hf_config["model_type"] != "bert"
  metadata = {
    "run": record.get("run") or {},
    "versions": record.get("versions") or {},
    "hardware": record.get("hardware") or {},
    "imported": {
      "from": lineage.shown_path(name),
      "sha256": files.fingerprint(folder, allow_pickle),
      "identity": model,
      "words": trained_with,
      "class": "XLMRobertaModel" if roberta else "BertModel",
      "dtype": dtype if dtype in save.DTYPES else "float32",
      "facts": record.get("facts") or {},
    },
  }
  imported_model.mark_imported(workdir, metadata["imported"])
  with CheckpointWriter(workdir, keep_latest=1, keep_every=1) as checkpoints:
    checkpoints.save(0, {"params": params}, metadata, wait=True)


def _config(run: dict[str, Any], shape: BertConfig) -> dict[str, Any]:
  """The config of the run that made it, or defaults with its shape."""
  config = {k: v for k, v in run.items() if not k.endswith("(SHA-256)")}
  config = completed(config)
  if lacking(run):
    config = json.loads(default_config().to_json())
  sizes = dataclasses.asdict(shape)
  student = config["student"]
  student |= {name: sizes[name] for name in student if name in sizes}
  return config
