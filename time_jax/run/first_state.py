"""The state that a run starts with, or continues from."""

from collections.abc import Collection, Mapping
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.config import changes
from time_jax.config.distill import default_config
from time_jax.core.notes import note
from time_jax.core.storage.paths import Path
from time_jax.hf import files, load
from time_jax.run import (
  assembly,
  first_weights,
  imported_model,
  run_files,
  run_record,
  students,
)
from time_jax.run.members import Member
from time_jax.starts import fitting
from time_jax.step.objective import Objective
from time_jax.step.state import TrainState, abstract_state, init_state

EPSILON = "student.layer_norm_eps"


def take_epsilon(
  config: ConfigDict, workdir: Path, typed: Collection[str] = ()
) -> None:
  """Sets a student's epsilon to that of the weights which it starts from.

  Only a config's default, which is BERT's, is replaced: RoBERTa and its kin
  have another, with which the weights would not fit. A value that was typed
  stays, so that a mismatch is refused where the weights are read.

  Args:
    config: config of the run; its student.layer_norm_eps may change.
    workdir: folder of the run.
    typed: names of the fields that were given on the command line.

  Raises:
    UserError: there is no such model as student.init_from names.
  """
  default = default_config().student.layer_norm_eps
  if EPSILON in typed or config.student.layer_norm_eps != default:
    return
  source: Any
  if layout.step_folders(workdir) and (workdir / run_files.SHAPE).exists():
    name, source = str(workdir), run_files.read_shape(workdir, config)
  elif name := first_weights.source_name(config):
    folder = files.resolve(name, config.teacher.allow_pickle)
    source = load.read_config(folder)[1]
  else:
    return
  epsilon = getattr(source, "layer_norm_eps", default)
  if not fitting.same_epsilon(epsilon, default):
    config.student.layer_norm_eps = epsilon
    note(
      f"student.layer_norm_eps={epsilon:g}, as in {name}, whose weights the "
      "student begins with."
    )


def restore_or_init(
  members: Mapping[str, Member],
  checkpoints: CheckpointReader,
  objectives: Mapping[str, Objective],
  mesh: Mesh,
  records: Mapping[str, dict[str, Any]],
) -> dict[str, TrainState]:
  """Returns each student's state: of the newest checkpoint, or of step 0.

  Args:
    members: the students of the run.
    checkpoints: its checkpoints.
    objectives: each student's loss, which has the student.
    mesh: devices of the run.
    records: what the checkpoints of this session say of each student.

  Raises:
    UserError: the checkpoints are of another run, or the first weights are
      not finite.
  """
  steps = checkpoints.steps()
  for member in members.values():
    imported_model.check_not_lost(member.workdir, steps)
  if not steps or imported_model.is_imported(checkpoints):
    return {
      name: _first_state(member, checkpoints, objectives[name], mesh)
      for name, member in members.items()
    }
  newest = steps[-1]
  run_record.check_same(checkpoints.metadata(newest), records, newest)
  abstract = {
    name: abstract_state(
      objectives[name].init,
      # As the last step left it, by whose settings it has its parts.
      assembly.step_settings(changes.at(member.config, newest - 1)),
      mesh,
    ).as_trees()
    for name, member in members.items()
  }
  trees = checkpoints.restore(newest, students.join(abstract))
  return {
    name: TrainState.from_trees(own)
    for name, own in students.split(trees, members).items()
  }


def _first_state(
  member: Member,
  checkpoints: CheckpointReader,
  objective: Objective,
  mesh: Mesh,
) -> TrainState:
  """Returns the state of step 0."""
  config, workdir = member.config, member.workdir
  state = init_state(objective.init, assembly.step_settings(config), mesh)
  params = first_weights.first_params(
    state.params, config, workdir, checkpoints, mesh
  )
  return state.starting_from(params)
