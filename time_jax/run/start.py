"""`start`: writes students as they are before their first step.

WORKDIR/start is a model's folder, which every command takes: so a start can be
fine-tuned and scored without distilling it. Of several students, each has such
a folder in its own.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.config.distill import check_config
from time_jax.config.recorded import completed, differences
from time_jax.config.students import typed_of
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder, check_empty
from time_jax.core.storage.paths import Path
from time_jax.data import pipeline
from time_jax.hf import files, save, tokenizer
from time_jax.hf.lineage import shown_path
from time_jax.models.family import Params, init_params
from time_jax.parallel import sharding
from time_jax.run import (
  assembly,
  corpus,
  first_state,
  first_weights,
  imported_model,
  members,
  narrowed_start,
  run_files,
  students,
)
from time_jax.run.members import Member
from time_jax.starts import fitting, layer_choice
from time_jax.starts.narrowing import Narrowed
from time_jax.step import machine
from time_jax.step.state import init_state

FOLDER, RECORD = narrowed_start.FOLDER, "start.json"


def start_command(
  config: ConfigDict, workdir: Path, typed: Collection[str] = ()
) -> int:
  """Writes the start of each student of a recipe into its folder.

  Args:
    config: config of the run, which need not have begun; an epsilon that
      follows from the first weights is set in it.
    workdir: folder of the run.
    typed: names of the fields that were given on the command line.

  Returns:
    The exit code, 0.

  Raises:
    UserError: the recipe has a mistake, or the workdir is that of a run which
      began otherwise.
  """
  check_config(config)
  corpus.keep_limit(config, workdir)
  group = members.members(config, workdir)
  members.prepare_folders(group, workdir)
  for name, member in group.items():
    with students.naming(name):
      own = typed_of(name, typed)
      first_state.take_epsilon(member.config, member.workdir, own)
      _check_begun_so(member)
  vocab_size = assembly.check_students(
    {name: member.config for name, member in group.items()}
  ).vocab_size
  for name, member in group.items():
    with students.naming(name):
      first_weights.check_source(member.config, member.workdir, vocab_size)
  machine.use_compilation_cache()
  mesh = sharding.make_mesh()

  @functools.cache  # Most starts need no text.
  def rows() -> pipeline.Rows:
    needed = narrowed_start.rows_needed(config.data.seq_len)
    return corpus.first_rows(config, workdir, vocab_size, needed)

  for name, member in group.items():
    with students.naming(name):
      # What a run has begun with, it still needs: the basis, to go on.
      begun = bool(layout.step_folders(member.workdir))
      write = start_of_run if begun else write_start
      folder = write(member, vocab_size, mesh, rows)
    print(f"Wrote {folder}: {_about(member.config, folder)}")
  print(
    "Next: python -m time_jax finetune ud --config=RECIPE:model="
    f"{folder} --workdir=RUN"
  )
  print(f"  or: python -m time_jax distill --config=RECIPE --workdir={workdir}")
  return 0


def _about(config: ConfigDict, folder: Path) -> str:
  """Says what a start is, which lies in a folder."""
  s = config.student
  text = f"{s.num_layers} layers of {s.hidden_size}, "
  layers = taken_layers(config)
  if not layers:
    return text + (f"as in {s.init_from}" if s.init_from else "random")
  text += f"the teacher's layers {', '.join(map(str, layers))}"
  narrowing = atomic_file.read_json(folder / RECORD).get("narrowing")
  if not narrowing:
    return text
  return text + (
    ", made narrower (the square error of its last states is "
    f"{narrowing['unexplained'][-1]:.0%} of the variance of the teacher's)"
  )


def taken_layers(config: ConfigDict) -> list[int]:
  """Returns the teacher's layer for each of the student's; empty: none is.

  Args:
    config: config of a student.
  """
  s = config.student
  if not layer_choice.is_teacher(s.init_from):
    return []
  return layer_choice.layers_of(s.init_from, s.num_layers, config.teacher.layer)


def _check_begun_so(member: Member) -> None:
  """Refuses a workdir whose run began with other weights than these."""
  config, workdir = member.config, member.workdir
  steps = [int(folder.name) for folder in layout.step_folders(workdir)]
  imported_model.check_not_lost(workdir, steps)
  if imported_model.was_imported(workdir, steps):
    raise UserError(
      f"{workdir} holds an imported student, and that is its start: `time_jax "
      f"export --workdir={workdir} --step=0` writes it. For the start of a "
      "recipe, use another --workdir."
    )
  if not steps:
    return
  before = completed(run_files.read_config(workdir).to_dict())
  changed = differences(_shaping(before), _shaping(config.to_dict()))
  if changed:
    raise UserError(
      f"the run in {workdir} began otherwise: {'; '.join(changed)}. Use "
      "another --workdir, or the settings of that run to write its start."
    )


def _shaping(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that a start depends on, but for the teacher's path."""
  fields = {"student": config["student"], "seed": config["seed"]}
  if layer_choice.is_teacher(config["student"]["init_from"]):
    fields["teacher"] = {"layer": config["teacher"]["layer"]}
  return fields


def write_narrower(
  group: Mapping[str, Member],
  workdir: Path,
  vocab_size: int,
  rows: pipeline.Rows,
) -> None:
  """Writes the starts of those students that are narrower than their teacher.

  Args:
    group: the students of a run.
    workdir: folder of the run. If it holds checkpoints, nothing is written.
    vocab_size: rows of the teacher's token table.
    rows: training text.

  Raises:
    UserError: as `write_start` does.
  """
  if layout.step_folders(workdir):
    return
  for name, member in group.items():
    with students.naming(name):
      if _wider_teacher(member.config, vocab_size):
        mesh = narrowed_start.local_mesh()
        write_start(member, vocab_size, mesh, lambda: rows)


def _wider_teacher(
  config: ConfigDict, vocab_size: int
) -> tuple[Path, Sequence[int]] | None:
  """Returns folder and layers of a teacher to be narrowed; None: it is not."""
  if not layer_choice.is_teacher(config.student.init_from):
    return None
  shape = assembly.student_config(config, vocab_size)
  folder, source, layers = first_weights.find_source(config, shape)
  return (folder, layers) if fitting.is_narrower(shape, source) else None


def start_of_run(
  member: Member,
  vocab_size: int,
  mesh: Mesh,
  rows: Callable[[], pipeline.Rows],
) -> Path:
  """Returns the folder of what a student of a begun run was before it.

  Args:
    member: the student; otherwise as for `write_start`, whose folder it is.
      That of a narrower one was written before the first step, and stays.
    vocab_size: see there.
    mesh: see there.
    rows: see there.

  Raises:
    UserError: as `write_start` does.
  """
  folder = member.workdir / FOLDER
  begun = (folder / RECORD).exists()
  if begun and _wider_teacher(member.config, vocab_size):
    return folder
  return write_start(member, vocab_size, mesh, rows)


def write_start(
  member: Member,
  vocab_size: int,
  mesh: Mesh,
  rows: Callable[[], pipeline.Rows],
) -> Path:
  """Writes what a student is before its first step.

  Args:
    member: the student.
    vocab_size: rows of the teacher's token table.
    mesh: devices to compute it on.
    rows: opens the training text, of which a narrower student is made.

  Returns:
    The folder, which replaces an earlier start.

  Raises:
    UserError: its first weights do not fit it, or the folder holds something
      that is no start.
  """
  config, folder = member.config, member.workdir / FOLDER
  if not (folder / RECORD).exists():
    check_empty(folder, "--workdir")
  student = assembly.make_student(config, vocab_size)
  settings = assembly.step_settings(config)
  fresh = init_state(
    lambda rng: init_params(student, rng), settings, mesh
  ).params
  found, wider = None, _wider_teacher(config, vocab_size)
  if wider:
    found = narrowed_start.narrow(config, *wider, fresh, student.config, rows())
    params = found.params
  else:
    params = first_weights.params_of_recipe(fresh, config, member.workdir, mesh)
  with atomic_folder(folder, "--workdir") as unfinished:
    write_model(unfinished, config, params, vocab_size)
    if found:
      _write_narrowing(unfinished, found)
  return folder


def _write_narrowing(folder: Path, found: Narrowed) -> None:
  """Adds how a start was made narrower to its folder."""
  tensors = {"basis": found.basis.astype(np.float32)}
  save.write_safetensors(folder / narrowed_start.BASIS, tensors)
  record = atomic_file.read_json(folder / RECORD)
  record["narrowing"] = {
    "share": found.share,
    "unexplained": found.unexplained,
    "heads": found.heads,
    "units": found.units,
  }
  atomic_file.write_json(folder / RECORD, record)


def write_model(
  folder: Path, config: ConfigDict, params: Params, vocab_size: int
) -> None:
  """Writes a student and what it was made from as a model's folder.

  Args:
    folder: an empty folder.
    config: config of the student.
    params: its parameters, float32.
    vocab_size: rows of the teacher's token table.
  """
  shape, ids = assembly.student_config(config, vocab_size), {}
  if config.teacher.path != assembly.RANDOM:
    source = files.resolve(config.teacher.path)
    if tokenizer.has_tokenizer(source):
      ids = tokenizer.special_ids(source, vocab_size)
      tokenizer.save_tokenizer(source, folder, shape.max_positions, vocab_size)
  save.save_bert(folder, shape, params, ids)
  record = _shaping(config.to_dict()) | {"layers": taken_layers(config)}
  record["student"] = dict(record["student"]) | {
    "init_from": shown_path(config.student.init_from)
  }
  atomic_file.write_json(folder / RECORD, record)
