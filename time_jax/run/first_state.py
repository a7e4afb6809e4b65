"""The state that a run starts with, or continues from."""

from collections.abc import Collection
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.config import changes
from time_jax.config.distill import default_config
from time_jax.core import nonfinite
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
from time_jax.run.students import STUDENTS
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
  if not first_weights.same_epsilon(epsilon, default):
    config.student.layer_norm_eps = epsilon
    note(
      f"student.layer_norm_eps={epsilon:g}, as in {name}, whose weights the "
      "student begins with."
    )


def restore_or_init(
  config: ConfigDict,
  workdir: Path,
  checkpoints: CheckpointReader,
  objective: Objective,
  mesh: Mesh,
  record: dict[str, Any],
) -> dict[str, TrainState]:
  """Returns each student's state: of the newest checkpoint, or of step 0.

  Args:
    config: config of the run.
    workdir: folder of the run.
    checkpoints: its checkpoints.
    objective: the relation loss, which has the student.
    mesh: devices of the run.
    record: what the checkpoints of this session say of the run.

  Raises:
    UserError: the checkpoints are of another run, or the first weights are
      not finite.
  """
  steps = checkpoints.steps()
  imported_model.check_not_lost(workdir, steps)
  if not steps or imported_model.is_imported(checkpoints):
    settings = assembly.step_settings(config)
    state = init_state(objective.init, settings, mesh)
    params = first_weights.first_params(
      state.params, config, workdir, checkpoints, mesh
    )
    if params is not state.params:  # Random ones are finite.
      source = config.student.init_from or str(workdir)
      nonfinite.check_first_weights(params, source)
    (name,) = STUDENTS
    return {name: state.starting_from(params)}
  before = checkpoints.metadata(steps[-1])["run"]
  run_record.check_same(before, record["run"], steps[-1])
  # As the last step left it, by whose settings it has its parts.
  settings = assembly.step_settings(changes.at(config, steps[-1] - 1))
  abstract = abstract_state(objective.init, settings, mesh).as_trees()
  trees = checkpoints.restore(
    steps[-1], students.join(dict.fromkeys(STUDENTS, abstract))
  )
  return {
    name: TrainState.from_trees(own)
    for name, own in students.split(trees, STUDENTS).items()
  }
