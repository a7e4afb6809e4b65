"""How a step is spread over the devices: with jit, or with its pmap twin."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from time_jax.core.arrays import Batch, make_batch
from time_jax.core.errors import UserError
from time_jax.data.pipeline import Row
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.step.train_step import Metrics, Step, TrainState


@dataclasses.dataclass(frozen=True)
class Parallel:
  """One way to spread a step.

  Attributes:
    step: compiled; takes what the functions below make. It donates the state.
    put: a global tree of arrays -> as the step wants it.
    get: the inverse, for checkpoints and evaluation.
    put_batch: this process's rows on the host -> as the step wants them.
    lower: takes what `step` takes, or shapes and shardings of it, and gives the
      step as it can be compiled ahead of time and looked at.
  """

  step: Step
  put: Callable[[Any], Any]
  get: Callable[[Any], Any]
  put_batch: Callable[[Row], Batch]
  lower: Callable[..., jax.stages.Lowered]


def with_jit(
  step: Step, state: TrainState, mesh: Mesh, global_batch_size: int
) -> Parallel:
  """jax.jit over global arrays with NamedSharding: any mesh, any processes.

  Args:
    step: `train_step` with its keyword arguments bound.
    state: abstract, with the shardings to keep.
    mesh: the devices.
    global_batch_size: rows of all processes.
  """
  layout = jax.tree.map(lambda leaf: leaf.sharding, state)
  compiled = jax.jit(
    step,
    in_shardings=(layout, None, sharding.batch_sharding(mesh)),
    out_shardings=(layout, NamedSharding(mesh, P())),
    donate_argnums=0,
  )

  def run(
    state: TrainState, teacher_params: Params, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    with sharding.use_mesh(mesh):
      return compiled(state, teacher_params, batch)

  def lower(*arguments: Any) -> jax.stages.Lowered:
    with sharding.use_mesh(mesh):
      return compiled.lower(*arguments)

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
  """jax.pmap over stacked replicas, the older style, for comparison.

  The numbers are those of `with_jit`, but for dropout: here each device draws
  its own.

  Args:
    step: `train_step` with its keyword arguments bound, but for `axis`.
    mesh: replicas only, in one process.

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
    state: TrainState, teacher_params: Params, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    state, metrics = compiled(state, teacher_params, batch)
    return state, _first(metrics)

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
