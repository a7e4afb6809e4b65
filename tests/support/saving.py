"""Checkpoints of two small trees, saved and looked at."""

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.checkpoint.writer import CheckpointWriter
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


def open_in(folder, keep_latest=2, keep_every=100):
  return CheckpointWriter(
    folder, keep_latest=keep_latest, keep_every=keep_every
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
