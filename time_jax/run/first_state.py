"""The state that a session of a run begins with."""

import pathlib
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
from time_jax.hf import files, load
from time_jax.run import assembly, imported_model, initial, run_record
from time_jax.step import train_step
from time_jax.step.objective import Objective

EPSILON = "student.layer_norm_eps"


def take_epsilon(
  config: ConfigDict, workdir: pathlib.Path, typed: Collection[str] = ()
) -> None:
  """Sets a student's epsilon to that of the weights which it begins with.

  Only where the config has the default, which is BERT's. RoBERTa and its kin
  have another, and with a different one the weights would not fit. A value that
  was typed stays, so that a mismatch is refused where the weights are read.

  Args:
    config: of the run; its student.layer_norm_eps may change.
    workdir: of the run.
    typed: names of the fields that were given with the command.

  Raises:
    UserError: there is no such model as student.init_from names.
  """
  usual = default_config().student.layer_norm_eps
  if EPSILON in typed or config.student.layer_norm_eps != usual:
    return
  if layout.step_folders(workdir) and (workdir / assembly.SHAPE).exists():
    found = assembly.read_shape(workdir, config)
    place = str(workdir)
  else:
    place = initial.source_name(config.student.init_from, config.teacher.path)
    if not place:
      return
    folder = files.resolve(place, config.teacher.allow_pickle)
    found = load.read_config(folder)[1]
  theirs = getattr(found, "layer_norm_eps", usual)
  if not initial.same_epsilon(theirs, usual):
    config.student.layer_norm_eps = theirs
    note(
      f"student.layer_norm_eps={theirs:g}, as in {place}, whose weights the "
      "student begins with."
    )


def restore_or_init(
  config: ConfigDict,
  workdir: pathlib.Path,
  checkpoints: CheckpointReader,
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
    UserError: the checkpoints are of another run, or the first weights are
      not finite.
  """
  steps = checkpoints.steps()
  imported_model.check_not_lost(workdir, steps)
  if not steps or imported_model.is_imported(checkpoints):
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
    source = config.student.init_from or str(workdir)
    if params is not state.params:  # Random ones are finite.
      nonfinite.check_first_weights(params, source)
    return state.starting_from(params)
  before = checkpoints.metadata(steps[-1])["run"]
  run_record.check_same(before, about["run"], steps[-1])
  # As the last step left it, by whose settings it has its parts.
  settings = changes.at(config, steps[-1] - 1)
  abstract = train_step.abstract_state(
    objective.student, tx, mesh, **assembly.extras(settings)
  )
  trees = checkpoints.restore(steps[-1], abstract.as_trees())
  return train_step.TrainState.from_trees(trees)
