"""First weights of a student that come from a model, not from random numbers.

The model is another student, or the teacher, of which some layers are taken.
What it does not have (a second token type, a pooler) stays random.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core import nonfinite
from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import files, load, tokenizer, weight_files
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params
from time_jax.parallel import host_collectives, sharding
from time_jax.run import (
  assembly,
  imported_model,
  narrowed_start,
  run_files,
)
from time_jax.starts import fitting, layer_choice

FLOAT32 = jnp.dtype("float32")
_EXPORT_RECORD = "time_jax.json"


def from_another_model(student: Mapping[str, Any]) -> bool:
  """Returns whether a run started from a model that is not its teacher.

  Args:
    student: part "student" of the run's record.
  """
  source = student.get("init_from") or ""
  return bool(source) and not layer_choice.is_teacher(source)


def source_name(config: ConfigDict) -> str:
  """Returns the model that first weights are read from; empty: random ones.

  Args:
    config: config of the run.

  Raises:
    UserError: they are to come from a teacher that is not in files.
  """
  init_from, teacher = config.student.init_from, config.teacher.path
  if not layer_choice.is_teacher(init_from):
    return init_from
  if teacher == assembly.RANDOM:
    raise UserError(
      f"student.init_from={init_from!r} needs a teacher in files, not "
      f"teacher.path={teacher}, whose weights are drawn for each run."
    )
  return teacher


def check_source(config: ConfigDict, workdir: Path, vocab_size: int) -> None:
  """Checks what a run is to start from, before anything large is read.

  Args:
    config: config of the run.
    workdir: folder of the run. If it holds checkpoints, the source is not
      looked at: it may be gone.
    vocab_size: rows of the teacher's token table.

  Raises:
    UserError: there is no such model, or it does not fit the student.
  """
  shape = assembly.student_config(config, vocab_size)
  steps = [int(folder.name) for folder in layout.step_folders(workdir)]
  if steps == [0]:
    imported = run_files.read_shape(workdir, run_files.read_config(workdir))
    # How many positions the checkpoint has, only it can tell.
    imported = dataclasses.replace(imported, max_positions=shape.max_positions)
    _check_imported(config, workdir, imported, shape)
  elif config.student.init_from and not steps:
    folder, _, _ = find_source(config, shape)
    weight_files.find_weights(folder, config.teacher.allow_pickle)


def first_params(
  fresh: Params,
  config: ConfigDict,
  workdir: Path,
  checkpoints: CheckpointReader,
  mesh: Mesh,
) -> Params:
  """Returns the parameters that a student starts from.

  Args:
    fresh: random parameters, laid out on the mesh.
    config: config of the run.
    workdir: folder of the run.
    checkpoints: its checkpoints: none, or what `import` put there.
    mesh: devices of the run.

  Raises:
    UserError: the weights do not fit the student, or are not finite.
  """
  if not imported_model.is_imported(checkpoints):
    return params_of_recipe(fresh, config, workdir, mesh)
  vocab_size = fresh["embeddings"]["word"]["embedding"].shape[0]
  shape = assembly.student_config(config, vocab_size)
  source = run_files.read_shape(workdir, run_files.read_config(workdir))
  source = imported_model.shape_of(source, checkpoints, 0)
  boxed = abstract_params(Encoder(source, source.num_layers))
  abstract = {"params": sharding.abstract(boxed, mesh)}
  params = checkpoints.restore(0, abstract)["params"]
  layers = _check_imported(config, workdir, source, shape)
  params = take_layers(params, source, layers, fresh, shape)
  nonfinite.check_first_weights(params, str(workdir))
  return params


def params_of_recipe(
  fresh: Params, config: ConfigDict, workdir: Path, mesh: Mesh
) -> Params:
  """Returns the parameters that `student.init_from` asks for.

  Args:
    fresh: random parameters, laid out on the mesh; they are the result where
      the recipe names no model.
    config: config of the run.
    workdir: folder of the run, which holds what was made of a teacher that is
      wider than the student.
    mesh: devices of the run.

  Raises:
    UserError: there is no such model, it does not fit the student, or its
      weights are not finite.
  """
  init_from = config.student.init_from
  if not init_from:
    return fresh  # Random ones are finite.
  vocab_size = fresh["embeddings"]["word"]["embedding"].shape[0]
  shape = assembly.student_config(config, vocab_size)
  folder, source, layers = find_source(config, shape)
  if fitting.is_narrower(shape, source):
    folder = workdir / narrowed_start.FOLDER
    source = load.read_config(folder)[1]
    layers = range(1, source.num_layers + 1)
    fitting.check_sizes(source, layers, shape)
  allow_pickle = config.teacher.allow_pickle
  # The teacher's files were compared before.
  if not layer_choice.is_teacher(init_from):
    _check_same_files(folder, allow_pickle)
  _, params = load.load_encoder(
    folder, dtype=FLOAT32, mesh=mesh, allow_pickle=allow_pickle
  )
  params = take_layers(params, source, layers, fresh, shape)
  nonfinite.check_first_weights(params, init_from)
  return params


def _check_imported(
  config: ConfigDict,
  workdir: Path,
  source: BertConfig,
  shape: BertConfig,
) -> Sequence[int]:
  """Checks an imported student; returns the layers to take: all of them."""
  if config.student.init_from:
    raise UserError(
      f"{workdir} holds an imported student, so student.init_from="
      f"{config.student.init_from!r} has no place; use another --workdir, or "
      "leave it empty."
    )
  layers = range(1, source.num_layers + 1)
  fitting.check_sizes(source, layers, shape)
  recorded = imported_model.vocabulary_sha256(workdir)
  _check_vocabulary(workdir / "tokenizer", recorded, config, shape.vocab_size)
  return layers


def find_source(
  config: ConfigDict, shape: BertConfig
) -> tuple[Path, BertConfig, Sequence[int]]:
  """Finds and checks the model that `student.init_from` names.

  Args:
    config: config of the run.
    shape: sizes of the student.

  Returns:
    Its folder, its sizes, and its layer for each one of the student.

  Raises:
    UserError: there is no such model, or it does not fit the student.
  """
  init_from, teacher = config.student.init_from, config.teacher
  folder = files.resolve(source_name(config), teacher.allow_pickle)
  source = load.read_config(folder)[1]
  layers = fitting.layers_of(init_from, teacher.layer, source, shape)
  recorded = recorded_vocabulary_sha256(folder)
  _check_vocabulary(folder, recorded, config, shape.vocab_size)
  return folder, source, layers


def _check_same_files(folder: Path, allow_pickle: bool) -> None:
  """Raises UserError where processes would start from different weights."""
  fingerprint = weight_files.fingerprint(folder, allow_pickle)
  hashes = host_collectives.all_gather(fingerprint)
  if other := [i for i, value in enumerate(hashes) if value != hashes[0]]:
    raise UserError(
      f"student.init_from: {folder} holds other weights for processes {other} "
      "than for process 0; expected the same files on all hosts."
    )


def recorded_vocabulary_sha256(folder: Path) -> str:
  """Returns the hash of the vocabulary that a model was trained with.

  Args:
    folder: folder of any model.

  Returns:
    What one of our exports says in its record; else an empty string.
  """
  if not (folder / _EXPORT_RECORD).exists():
    return ""
  fingerprint = json_file.read_json(folder / _EXPORT_RECORD).get("fingerprint")
  value = fingerprint.get("words") if isinstance(fingerprint, dict) else None
  return value if isinstance(value, str) else ""


def _check_vocabulary(
  folder: Path, recorded: str, config: ConfigDict, vocab_size: int
) -> None:
  """Raises UserError where a model's vocabulary is not the teacher's.

  Args:
    folder: folder of the model's tokenizer.
    recorded: hash of its vocabulary, used if there is no tokenizer.
    config: config of the run.
    vocab_size: rows of the token table.
  """
  if config.teacher.path == assembly.RANDOM:
    return
  sha256 = recorded
  if tokenizer.has_tokenizer(folder):
    sha256 = tokenizer.vocabulary_sha256(folder, vocab_size)
  if not sha256:
    note(
      f"{folder} has no tokenizer, so it cannot be told whether the student's "
      "first weights know the teacher's words by the same ids."
    )
    return
  teacher = files.resolve(config.teacher.path)
  if sha256 != tokenizer.vocabulary_sha256(teacher, vocab_size):
    raise UserError(
      f"the first weights, with the words of {folder}, have another vocabulary "
      "than the teacher; the student's words must be the teacher's."
    )


def take_layers(
  source: Params,
  source_shape: BertConfig,
  layers: Sequence[int],
  fresh: Params,
  shape: BertConfig,
) -> Params:
  """Returns a student's parameters, taken from another model's.

  Args:
    source: parameters of the other model, float32.
    source_shape: its sizes.
    layers: its layer, from 1, for each one of the student.
    fresh: random parameters of the student, in the layout of the result.
    shape: sizes of the student, see `fitting.check_sizes`.
  """
  start = source_shape.position_offset
  types = min(source_shape.num_token_types, shape.num_token_types)

  def build(source: Params, fresh: Params) -> Params:
    blocks = [
      jax.tree.map(lambda x, i=i: x[i], source["layers"])
      for i in range(source_shape.num_layers - 1)
    ] + [source["last"]]
    chosen = [blocks[layer - 1] for layer in layers]
    params = dict(fresh) | {"last": chosen[-1]}
    if "pooler" in source:
      params["pooler"] = source["pooler"]
    if len(chosen) > 1:
      params["layers"] = jax.tree.map(lambda *x: jnp.stack(x), *chosen[:-1])
    positions = source["embeddings"]["position"]["embedding"]
    source_types = source["embeddings"]["token_type"]["embedding"]
    fresh_types = fresh["embeddings"]["token_type"]["embedding"]
    params["embeddings"] = {
      "word": source["embeddings"]["word"],
      "norm": source["embeddings"]["norm"],
      "position": {"embedding": positions[start : start + shape.max_positions]},
      "token_type": {
        "embedding": fresh_types.at[:types].set(source_types[:types])
      },
    }
    return params

  layout = jax.tree.map(lambda leaf: leaf.sharding, fresh)
  return jax.jit(build, out_shardings=layout)(source, fresh)
