"""Where a student's first weights come from, if not from a random number.

From another student, or from chosen layers of the teacher. What the source
does not have (a second token type, a pooler) stays as freshly initialised.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.hf import files, load, model_hash, tokenizer
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params
from time_jax.parallel import host_collectives, sharding
from time_jax.run import assembly, imported_model

FLOAT32 = jnp.dtype("float32")
TEACHER = "teacher"
_RECORD = "time_jax.json"  # of an export


def from_elsewhere(student: Mapping[str, Any]) -> bool:
  """Whether a run's record names a model, not its teacher, to begin with.

  Args:
    student: that part of the record.
  """
  source = student.get("init_from") or ""
  return bool(source) and not _of_teacher(source)


def _of_teacher(init_from: str) -> bool:
  return init_from.partition(":")[0] == TEACHER


def check_source(
  config: ConfigDict, workdir: pathlib.Path, vocab_size: int
) -> None:
  """Checks what a run is to start from, before anything large is read.

  Args:
    config: of the run.
    workdir: of the run. Where it holds checkpoints, one of them is read
      instead: the source may be gone.
    vocab_size: rows of the teacher's token table.

  Raises:
    UserError: there is no such model, or it does not fit the student.
  """
  shape = assembly.student_config(config, vocab_size)
  init_from, teacher = config.student.init_from, config.teacher
  steps = [int(folder.name) for folder in layout.step_folders(workdir)]
  if steps == [0]:
    _check_no_other(workdir, init_from)
    found = assembly.read_shape(workdir, assembly.read_run(workdir))
    # How many positions the checkpoint has, only it can tell.
    found = dataclasses.replace(found, max_positions=shape.max_positions)
    _check(found, range(1, found.num_layers + 1), shape)
    _check_words(
      workdir / "tokenizer",
      imported_model.words(workdir),
      teacher.path,
      vocab_size,
    )
  elif init_from and not steps:
    folder, _, _ = _find(
      init_from, teacher.path, teacher.layer, teacher.allow_pickle, shape
    )
    files.weight_files(folder, teacher.allow_pickle)


def source_name(init_from: str, teacher_path: str) -> str:
  """The model that a student's first weights are of; empty: they are random.

  Args:
    init_from: see `first_params`.
    teacher_path: likewise.

  Raises:
    UserError: they are to be those of a teacher that has none in files.
  """
  if not _of_teacher(init_from):
    return init_from
  if teacher_path == assembly.RANDOM:
    raise UserError(
      f"student.init_from={init_from!r} needs a teacher in files, not "
      f"teacher.path={teacher_path}, whose weights are drawn for each run."
    )
  return teacher_path


def same_epsilon(a: float, b: float) -> bool:
  """Whether two epsilons are one number in float32, which computes with it."""
  return bool(np.float32(a) == np.float32(b))


def first_params(
  fresh: Params,
  shape: BertConfig,
  mesh: Mesh,
  *,
  workdir: pathlib.Path,
  checkpoints: CheckpointReader,
  init_from: str,
  teacher_path: str,
  teacher_layer: int,
  allow_pickle: bool,
) -> Params:
  """What a student starts from.

  Args:
    fresh: random weights, laid out on the mesh.
    shape: of the student.
    mesh: the devices.
    workdir: of the run.
    checkpoints: empty, or with what `import` put there.
    init_from: "teacher", "teacher:1,4,9", a folder or a hub id; empty: random.
    teacher_path: see `files.resolve`.
    teacher_layer: the distilled one.
    allow_pickle: see `files.weight_files`; of either source.

  Raises:
    UserError: the weights do not fit the student.
  """
  if imported_model.is_imported(checkpoints):
    _check_no_other(workdir, init_from)
    source, found = _imported(workdir, checkpoints, mesh)
    layers = range(1, found.num_layers + 1)
    _check(found, layers, shape)
    _check_words(
      workdir / "tokenizer",
      imported_model.words(workdir),
      teacher_path,
      shape.vocab_size,
    )
  elif init_from:
    folder, found, layers = _find(
      init_from, teacher_path, teacher_layer, allow_pickle, shape
    )
    if not _of_teacher(init_from):  # The teacher's were compared before.
      _check_alike(folder, allow_pickle)
    _, source = load.load_encoder(
      folder, dtype=FLOAT32, mesh=mesh, allow_pickle=allow_pickle
    )
  else:
    return fresh
  return fit(source, found, layers, fresh, shape)


def _check_no_other(workdir: pathlib.Path, init_from: str) -> None:
  if init_from:
    raise UserError(
      f"{workdir} holds an imported student, so student.init_from="
      f"{init_from!r} has no place; use another --workdir, or leave it empty."
    )


def _find(
  init_from: str,
  teacher_path: str,
  teacher_layer: int,
  allow_pickle: bool,
  shape: BertConfig,
) -> tuple[pathlib.Path, BertConfig, Sequence[int]]:
  """Folder, shape and layers of the source; UserError: it does not fit."""
  folder = files.resolve(source_name(init_from, teacher_path), allow_pickle)
  found = load.read_config(folder)[1]
  check_kin(found, init_from)
  layers: Sequence[int] = range(1, found.num_layers + 1)
  if _of_teacher(init_from):
    layers = _teacher_layers(init_from, shape.num_layers, teacher_layer)
  for layer in layers:
    load.check_layer(layer, found.num_layers)
  _check(found, layers, shape)
  words = words_of_record(folder)
  _check_words(folder, words, teacher_path, shape.vocab_size)
  return folder, found, layers


def _imported(
  workdir: pathlib.Path, checkpoints: CheckpointReader, mesh: Mesh
) -> tuple[Params, BertConfig]:
  shape = assembly.read_shape(workdir, assembly.read_run(workdir))
  shape = imported_model.shape_of(shape, checkpoints, 0)
  boxed = abstract_params(Encoder(shape, shape.num_layers))
  abstract = {"params": sharding.abstract(boxed, mesh)}
  return checkpoints.restore(0, abstract)["params"], shape


def _check_alike(folder: pathlib.Path, allow_pickle: bool) -> None:
  """UserError where the processes would begin with different weights."""
  found = host_collectives.all_gather(files.fingerprint(folder, allow_pickle))
  if other := [i for i, one in enumerate(found) if one != found[0]]:
    raise UserError(
      f"student.init_from: {folder} holds other weights for processes {other} "
      "than for process 0; expected the same files on all hosts."
    )


def words_of_record(folder: pathlib.Path) -> str:
  """Hash of the vocabulary that an export of ours says it was trained with.

  Args:
    folder: of any model; the hash is empty where nothing says it.
  """
  if not (folder / _RECORD).exists():
    return ""
  said = files.read_json(folder / _RECORD).get("fingerprint")
  words = said.get("words") if isinstance(said, dict) else None
  return words if isinstance(words, str) else ""


def _check_words(
  folder: pathlib.Path, words: str, teacher_path: str, vocab_size: int
) -> None:
  """UserError where the source has other words than the teacher.

  Args:
    folder: of the source's tokenizer.
    words: hash of its vocabulary, for where there is no tokenizer.
    teacher_path: see `files.resolve`.
    vocab_size: rows of the embedding table.
  """
  if teacher_path == assembly.RANDOM:
    return
  if tokenizer.has_tokenizer(folder):
    words = tokenizer.words_sha256(folder, vocab_size)
  if not words:
    note(
      f"{folder} has no tokenizer, so it cannot be told whether the student's "
      "first weights know the teacher's words by the same ids."
    )
    return
  if words != tokenizer.words_sha256(files.resolve(teacher_path), vocab_size):
    raise UserError(
      f"the first weights, with the words of {folder}, have another vocabulary "
      "than the teacher; the student's words must be the teacher's."
    )


def check_kin(shape: Any, name: str) -> None:
  """Raises UserError unless a model is the network that students are."""
  if not model_hash.is_student(shape):
    raise UserError(
      f"{name} is built otherwise than students are; expected a BERT, RoBERTa, "
      "CamemBERT or XLM-R with exact GELU."
    )


def _teacher_layers(init_from: str, wanted: int, highest: int) -> list[int]:
  """By number, or evenly up to the distilled layer, which is the last."""
  chosen = init_from.partition(":")[2]
  if not chosen and wanted > highest:
    twice = ",".join(
      str(-(-i * highest // wanted)) for i in range(1, wanted + 1)
    )
    raise UserError(
      f"student.num_layers={wanted} is more than the {highest} layers of the "
      f"teacher up to teacher.layer; expected at most {highest}, or a list in "
      f"which layers come twice, such as student.init_from={TEACHER}:{twice}."
    )
  if not chosen:
    return [round(i * highest / wanted) for i in range(1, wanted + 1)]
  try:
    return [int(number) for number in chosen.split(",")]
  except ValueError:
    raise UserError(
      f"student.init_from={init_from!r}: expected layer numbers, such as "
      f"{TEACHER}:1,4,9."
    ) from None


def fit(
  source: Params,
  source_shape: BertConfig,
  layers: Sequence[int],
  fresh: Params,
  shape: BertConfig,
) -> Params:
  """Parameters of a student from those of another model.

  Args:
    source: of the other model, float32.
    source_shape: its sizes.
    layers: of the other model, from 1; one for each of the student.
    fresh: of the student, freshly initialised; says the layout, too.
    shape: sizes of the student; the two agree in what they must.
  """
  start = source_shape.position_offset
  types = min(source_shape.num_token_types, shape.num_token_types)

  def build(source: Params, fresh: Params) -> Params:
    middle = source_shape.num_layers - 1
    blocks = [
      jax.tree.map(lambda x, i=i: x[i], source["layers"]) for i in range(middle)
    ] + [source["last"]]
    chosen = [blocks[layer - 1] for layer in layers]
    made = dict(fresh) | {"last": chosen[-1]}
    if "pooler" in source:
      made["pooler"] = source["pooler"]
    if len(chosen) > 1:
      made["layers"] = jax.tree.map(lambda *x: jnp.stack(x), *chosen[:-1])
    table = source["embeddings"]["position"]["embedding"]
    type_table = source["embeddings"]["token_type"]["embedding"]
    rows = fresh["embeddings"]["token_type"]["embedding"]
    made["embeddings"] = {
      "word": source["embeddings"]["word"],
      "norm": source["embeddings"]["norm"],
      "position": {"embedding": table[start : start + shape.max_positions]},
      "token_type": {"embedding": rows.at[:types].set(type_table[:types])},
    }
    return made

  layout = jax.tree.map(lambda leaf: leaf.sharding, fresh)
  return jax.jit(build, out_shardings=layout)(source, fresh)


def _check(
  source: BertConfig, layers: Sequence[int], shape: BertConfig
) -> None:
  problems = []
  if len(layers) != shape.num_layers:
    problems.append(
      f"student.num_layers={shape.num_layers}, there are {len(layers)}"
    )
  for name in (
    "hidden_size",
    "num_heads",
    "intermediate_size",
    "layer_norm_eps",
  ):
    theirs, ours = getattr(source, name), getattr(shape, name)
    floats = name == "layer_norm_eps" and same_epsilon(theirs, ours)
    if theirs != ours and not floats:
      problems.append(f"student.{name}={ours}, there it is {theirs}")
  if source.vocab_size != shape.vocab_size:
    problems.append(
      f"the teacher has {shape.vocab_size} words, there are {source.vocab_size}"
    )
  if source.max_positions < shape.max_positions:
    problems.append(
      f"student.max_positions={shape.max_positions}, there are "
      f"{source.max_positions}"
    )
  if problems:
    raise UserError(
      "the student's first weights do not fit it: " + "; ".join(problems) + "."
    )
