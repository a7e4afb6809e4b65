"""The state that a session of a run begins with."""

import pathlib
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax import assembly, initial, record, train_step
from time_jax.checkpoint import Checkpoints
from time_jax.distill import Objective


def restore_or_init(
  config: ConfigDict,
  workdir: pathlib.Path,
  checkpoints: Checkpoints,
  objective: Objective,
  tx: Any,
  mesh: Mesh,
  about: dict[str, Any],
) -> train_step.TrainState:
  """The state of the newest checkpoint, or that of step 0.

  Args:
    config: of the run.
    workdir: of the run.
    checkpoints: in it.
    objective: which has the student.
    tx: the optimizer.
    mesh: the devices.
    about: what the checkpoints of this session will say, see `record`.

  Raises:
    UserError: the checkpoints are of another run.
  """
  steps = checkpoints.steps()
  initial.check_not_lost(workdir, steps)
  if not steps or initial.is_imported(checkpoints):
    state = train_step.init_state(
      objective.student, tx, mesh, config.seed, **assembly.extras(config)
    )
    params = initial.first_params(
      state.params,
      objective.student.config,
      mesh,
      workdir=workdir,
      checkpoints=checkpoints,
      init_from=config.student.init_from,
      teacher_path=config.teacher.path,
      teacher_layer=config.teacher.layer,
      allow_pickle=config.teacher.allow_pickle,
    )
    return state.starting_from(params)
  before = checkpoints.metadata(steps[-1])["run"]
  record.check_same(before, about["run"], steps[-1])
  abstract = train_step.abstract_state(
    objective.student, tx, mesh, **assembly.extras(config)
  )
  trees = checkpoints.restore(steps[-1], abstract.as_trees())
  return train_step.TrainState.from_trees(trees)
