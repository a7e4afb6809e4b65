"""Checkpoints of two small trees, saved and looked at."""

import json

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.run import students
from time_jax.telemetry.history import METRIC

LAYOUTS = {"kernel": P("data", "fsdp"), "bias": P(), "step": P()}


def values(seed, rows=8):
  random = np.random.default_rng(seed)
  return {
    "params": {
      "kernel": random.normal(size=(rows, 1024)).astype(np.float32),
      "bias": random.normal(size=6).astype(np.float32),
    },
    "rest": {"step": np.asarray(seed, np.int32)},
  }


def layout_of(path, mesh):
  return NamedSharding(mesh, LAYOUTS[path[-1].key])


def trees(seed, mesh=None, **sizes):
  mesh = mesh or make_mesh(1, 1, 1)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jax.device_put(x, layout_of(path, mesh)),
    values(seed, **sizes),
  )


def abstract(mesh=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    trees(0, mesh),
  )


def open_in(folder, keep_latest=2, keep_every=100, **more):
  return CheckpointWriter(
    folder, keep_latest=keep_latest, keep_every=keep_every, **more
  )


def save_all(checkpoints, steps, scores=None):
  for step in steps:
    score = (scores or {}).get(step)
    metrics = None if score is None else {METRIC: score, "eval/kl_qq": 1.0}
    checkpoints.save(step, trees(step), {"run": step}, metrics)


def steps_in(folder):
  with CheckpointReader(folder) as checkpoints:
    return checkpoints.steps()


def folder_of(workdir, step):
  return workdir / "checkpoints" / str(step)


MEMBERS = ("m", "s", "xs")


def lay_out(workdir, members=MEMBERS):
  """The folders of a run of several students, with nothing saved yet."""
  for name in members:
    folder = workdir / "students" / name
    folder.mkdir(parents=True)
    place = {"run": "../..", "student": name}
    (folder / "member.json").write_text(json.dumps(place))
  config = {"students": {name: {} for name in members}}
  (workdir / "config.json").write_text(json.dumps(config))


def joint_values(step, members=MEMBERS):
  """Of every student other ones; s has an average."""
  found = {name: values(10 * step + i) for i, name in enumerate(members)}
  found["s"]["ema"] = values(77)["params"]
  return found


def open_joint(workdir, **more):
  scores = students.join({name: {METRIC: METRIC} for name in MEMBERS})
  return open_in(workdir, metrics=list(scores), **more)


def save_joint(checkpoints, step, scores=None, mesh=None, **more):
  """Saves all members; `scores`: student -> loss."""
  mesh = mesh or make_mesh(1, 1, 1)
  checkpoints.save(
    step,
    jax.tree_util.tree_map_with_path(
      lambda path, x: jax.device_put(x, layout_of(path, mesh)),
      students.join(joint_values(step)),
    ),
    {"students": {name: {"run": f"{name} {step}"} for name in MEMBERS}},
    joint_scores(scores) if scores else None,
    **more,
  )


def joint_scores(scores):
  return {f"{name}.{METRIC}": value for name, value in scores.items()}
