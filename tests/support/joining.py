"""A run of several students, put together of runs of one."""

import json
import shutil

import jax
import numpy as np
from saving import lay_out

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.run import students
from time_jax.telemetry.history import METRIC


def join(workdir, members, abstract, spoil=lambda name, leaf: leaf):
  """Writes what a run of several would have written.

  Args:
    workdir: folder of the run, to be made.
    members: name of a student -> a run that trained it.
    abstract: shapes of the trees of their checkpoints.
    spoil: changes a leaf of a student's trees.
  """
  lay_out(workdir, members)
  for name, run in members.items():
    folder = workdir / "students" / name
    for path in run.iterdir():
      if path.is_file() and path.name != "choice.json":
        shutil.copy(path, folder)
    shutil.copytree(run / "tokenizer", folder / "tokenizer")
  first, *_ = members.values()
  config = json.loads((first / "config.json").read_text())
  config["students"] = {name: {} for name in members}
  (workdir / "config.json").write_text(json.dumps(config))
  shutil.copytree(first / "data", workdir / "data")
  metrics = [f"{name}.{METRIC}" for name in members]
  with CheckpointWriter(
    workdir, keep_latest=9, keep_every=None, metrics=metrics
  ) as joint:
    for step in _steps(first):
      trees, records = {}, {}
      for name, run in members.items():
        with CheckpointReader(run) as checkpoints:
          records[name] = checkpoints.metadata(step)
          trees[name] = jax.tree.map(
            lambda leaf, name=name: spoil(name, np.asarray(leaf)),
            checkpoints.restore(step, abstract),
          )
      joint.save(step, students.join(trees), {"students": records}, wait=True)


def _steps(run):
  with CheckpointReader(run) as checkpoints:
    return checkpoints.steps()
