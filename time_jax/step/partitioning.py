"""Compiles a step for the devices of a mesh: with jit, or with pmap."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from time_jax.core.arrays import Batch, Targets, make_batch
from time_jax.core.errors import UserError
from time_jax.data.pipeline import Row
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.step.state import TrainState
from time_jax.step.train_step import Metrics, States, Step


@dataclasses.dataclass(frozen=True)
class Parallel:
  """A compiled step, and how its arguments are laid out.

  Attributes:
    step: the compiled step; it donates the states.
    put: lays a tree of global arrays out as `step` takes it.
    get: the inverse of `put`, for checkpoints and evaluation.
    put_batch: lays this process's rows out, from the host, as `step` takes
      them.
    lower: lowers the step for ahead-of-time compilation; takes the arguments of
      `step`, or their shapes and shardings.
  """

  step: Step
  put: Callable[[Any], Any]
  get: Callable[[Any], Any]
  put_batch: Callable[[Row], Batch]
  lower: Callable[..., jax.stages.Lowered]


def with_jit(
  step: Step, states: States, mesh: Mesh, global_batch_size: int
) -> Parallel:
  """Compiles with jax.jit over global arrays: any mesh, any processes.

  Args:
    step: `train_step` with its keyword arguments bound.
    states: shapes and shardings of each student's state, which it keeps.
    mesh: the devices.
    global_batch_size: number of rows of all processes.
  """
  shardings = jax.tree.map(lambda leaf: leaf.sharding, states)
  rows = sharding.batch_sharding(mesh)
  compiled = jax.jit(
    step,
    in_shardings=(shardings, None, rows, rows),
    out_shardings=(shardings, NamedSharding(mesh, P())),
    donate_argnums=0,
  )

  def run(
    states: States,
    teacher_params: Params,
    batch: Batch,
    targets: Targets | None = None,
  ) -> tuple[dict[str, TrainState], dict[str, Metrics]]:
    with sharding.use_mesh(mesh):
      return compiled(states, teacher_params, batch, targets)

  def lower(
    states: States,
    teacher_params: Params,
    batch: Batch,
    targets: Targets | None = None,
  ) -> jax.stages.Lowered:
    with sharding.use_mesh(mesh):
      return compiled.lower(states, teacher_params, batch, targets)

  return Parallel(
    step=run,
    put=lambda tree: tree,
    get=lambda tree: tree,
    put_batch=lambda row: sharding.global_batch(
      row["tokens"], row["segment_ids"], mesh, global_batch_size
    ),
    lower=lower,
  )


def with_pmap(step: Callable[..., Any], mesh: Mesh) -> Parallel:
  """Compiles with jax.pmap over stacked replicas, to compare with jit.

  The results are those of `with_jit` but for dropout, which each device draws
  for itself.

  Args:
    step: `train_step` with its keyword arguments bound, but for `axis`.
    mesh: the devices, replicas only, in one process.

  Raises:
    UserError: the mesh splits parameters, or there are other processes.
  """
  check_pmap(mesh)
  count = mesh.shape["data"]
  devices = list(mesh.devices.flat)
  compiled = jax.pmap(
    functools.partial(step, axis="devices"),
    axis_name="devices",
    devices=devices,
    donate_argnums=0,
  )
  stacked = NamedSharding(Mesh(np.array(devices), ("devices",)), P("devices"))

  def run(
    states: States,
    teacher_params: Params,
    batch: Batch,
    targets: Targets | None = None,
  ) -> tuple[dict[str, TrainState], dict[str, Metrics]]:
    assert targets is None, "a config with a cache and pmap is refused"
    states, metrics = compiled(states, teacher_params, batch)
    return states, _first(metrics)

  def put(tree: Any) -> Any:
    return jax.tree.map(
      lambda x: jax.device_put(
        jnp.broadcast_to(jax.device_get(x), (count, *x.shape)), stacked
      ),
      tree,
    )

  def put_batch(row: Row) -> Batch:
    batch = make_batch(row["tokens"], row["segment_ids"])
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)

  return Parallel(
    step=run,
    put=put,
    get=lambda tree: sharding.replicate(_first(tree), mesh),
    put_batch=put_batch,
    lower=compiled.lower,
  )


def check_pmap(mesh: Mesh) -> None:
  """Raises UserError where `with_pmap` cannot work."""
  if jax.process_count() > 1 or mesh.size != mesh.shape["data"]:
    raise UserError(
      "train.parallel='pmap' works in one process with replicas only; expected "
      "mesh.fsdp=1 and mesh.tensor=1, or train.parallel='jit'."
    )


def _first(tree: Any) -> Any:
  return jax.tree.map(lambda x: x[0], tree)
