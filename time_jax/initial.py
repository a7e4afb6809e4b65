"""Where a student's first weights come from, if not from a random number.

From another student, or from chosen layers of the teacher. What the source
does not have (a second token type, a pooler) stays as freshly initialised.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from time_jax import assembly, identity, sharding
from time_jax.checkpoint import Checkpoints
from time_jax.errors import UserError
from time_jax.hf import files, load, tokenizer
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params

FLOAT32 = jnp.dtype("float32")
TEACHER = "teacher"


def is_imported(checkpoints: Checkpoints) -> bool:
  """Whether nothing but what `import` put there is in a workdir."""
  return checkpoints.steps() == [0]


def origin(checkpoints: Checkpoints) -> dict[str, Any]:
  """What later checkpoints say of the one that was imported, if one was."""
  if 0 not in checkpoints.steps():
    return {}
  imported = checkpoints.metadata(0)["imported"]
  return {"imported": {name: imported[name] for name in ("from", "sha256")}}


def from_elsewhere(student: Mapping[str, Any]) -> bool:
  """Whether a run's record names a model, not its teacher, to begin with.

  Args:
    student: that part of the record.
  """
  source = student.get("init_from") or ""
  return bool(source) and source.partition(":")[0] != TEACHER


def first_params(
  fresh: Params,
  shape: BertConfig,
  mesh: Mesh,
  *,
  workdir: pathlib.Path,
  checkpoints: Checkpoints,
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
  if is_imported(checkpoints):
    if init_from:
      raise UserError(
        f"{workdir} holds an imported student, so student.init_from="
        f"{init_from!r} has no place; use another --workdir, or leave it empty."
      )
    source, found = _imported(workdir, checkpoints, mesh)
    layers, folder = range(1, found.num_layers + 1), workdir / "tokenizer"
  elif init_from:
    of_teacher = init_from.partition(":")[0] == TEACHER
    name = teacher_path if of_teacher else init_from
    folder = files.resolve(name, allow_pickle)
    found = load.read_config(folder)[1]
    check_kin(found, init_from)
    layers = range(1, found.num_layers + 1)
    if of_teacher:
      layers = _teacher_layers(init_from, shape.num_layers, teacher_layer)
    for layer in layers:
      load.check_layer(layer, found.num_layers)
    _check(found, layers, shape)  # Before weights are read.
    _, source = load.load_encoder(
      folder, dtype=FLOAT32, mesh=mesh, allow_pickle=allow_pickle
    )
  else:
    return fresh
  _check(found, layers, shape)
  _check_words(folder, teacher_path, shape.vocab_size)
  return fit(source, found, layers, fresh, shape)


def _imported(
  workdir: pathlib.Path, checkpoints: Checkpoints, mesh: Mesh
) -> tuple[Params, BertConfig]:
  shape = BertConfig(**files.read_json(workdir / assembly.SHAPE))
  boxed = abstract_params(Encoder(shape, shape.num_layers))
  abstract = {"params": sharding.abstract(boxed, mesh)}
  return checkpoints.restore(0, abstract)["params"], shape


def _check_words(
  folder: pathlib.Path, teacher_path: str, vocab_size: int
) -> None:
  """UserError where the source has other words than the teacher."""
  if teacher_path == assembly.RANDOM or not tokenizer.has_tokenizer(folder):
    return
  folders = folder, files.resolve(teacher_path)
  if len({tokenizer.words_sha256(f, vocab_size) for f in folders}) > 1:
    raise UserError(
      f"the tokenizer in {folder} has another vocabulary than the teacher's; "
      "the student's words must be the teacher's."
    )


def check_kin(shape: Any, name: str) -> None:
  """Raises UserError unless a model is the network that students are."""
  if not identity.is_student(shape):
    raise UserError(
      f"{name} is built otherwise than students are; expected a BERT, RoBERTa, "
      "CamemBERT or XLM-R with exact GELU."
    )


def _teacher_layers(init_from: str, wanted: int, highest: int) -> list[int]:
  """By number, or evenly up to the distilled layer, which is the last."""
  chosen = init_from.partition(":")[2]
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
    if theirs != ours:
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
