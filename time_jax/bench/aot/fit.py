"""Whether a run fits on devices that are not here, and what its step does.

The step is the one that `distill` runs, compiled for a topology from shapes
alone: no weights, no text and no accelerator are needed.
"""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.bench.aot import program
from time_jax.bench.aot.collectives import Total, collectives, totals, unreached
from time_jax.bench.aot.topology import LINKS, Topology, read_memory
from time_jax.bench.aot.traffic import traffic
from time_jax.bench.common.run import cache_hits
from time_jax.core.arrays import Batch
from time_jax.core.errors import UserError
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step import flops, train_step
from time_jax.step.objective import Objective


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    parameters: of the student.
    optimizer: its state and the counters.
    teacher: what is kept of its parameters.
    batch: token rows.
    padding: what the device's layout adds to these four.
    temporaries: activations, gradients, gathered parameters; at the peak.
    outputs: results that do not take the place of arguments.
    code: of the program.
    total: all of it.
  """

  parameters: int
  optimizer: int
  teacher: int
  batch: int
  padding: int
  temporaries: int
  outputs: int
  code: int
  total: int

  @property
  def held(self) -> int:
    """Of the arguments, as they are without the layout's padding."""
    return self.parameters + self.optimizer + self.teacher + self.batch


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A roofline: seconds that each part of the device needs for one step.

  An estimate from published peaks and from the program's text, no measurement.

  Attributes:
    compute: matrix products of the method at the bfloat16 peak.
    hbm: bytes to and from main memory, see `bench.traffic`; where this machine
      stands for the devices only what each step must: state, weights, batch.
    ici: bytes sent to other devices, in rings along one axis of a slice or over
      NVLink.
    peak: FLOP/s of a device, with its source; likewise in bytes/s:
    hbm_bandwidth: of main memory.
    ici_bandwidth: of a ring.
    source: of the peak.
    link_source: of the bandwidths.
  """

  compute: float
  hbm: float
  ici: float
  peak: float
  hbm_bandwidth: float
  ici_bandwidth: float
  source: str
  link_source: str

  @property
  def best(self) -> float:
    """Seconds if the three overlap wholly."""
    return max(self.compute, self.hbm, self.ici)

  @property
  def worst(self) -> float:
    """Seconds if nothing overlaps."""
    return self.compute + self.hbm + self.ici


@dataclasses.dataclass(frozen=True)
class Report:
  """What compiling one variant of a run showed.

  Attributes:
    topology: its name.
    device_kind: as JAX says it.
    devices: their number.
    mesh: axis -> size.
    global_batch_size: rows of a step.
    rows_per_device: rows of a micro-batch on one device.
    tokens: in a step, rows times their length.
    accumulation: micro-batches of a step.
    forced: whether devices of this machine stand for the named ones.
    fits: whether the compiler accepts the program; with `forced` whether this
      machine's would be small enough; None where neither can be said.
    reason: why it does not fit.
    needed: bytes on a device as the reason says them; 0 where it does not.
    capacity: bytes that a program may use on a device; None if not known.
    compile_seconds: taken by the compiler on this machine.
    cached: whether it had compiled the same before.
    memory: of a device; None if the program did not fit. Likewise:
    optimizer_total: bytes of the optimizer's state on all devices, once.
    kernels: hand-written kernels and library calls -> executions in a step.
    relation_matrices: what the relation loss holds of S x S matrices, largest
      first.
    heads_at_once: relation heads whose S x S matrices are held at a time.
    collectives: what devices tell each other in a step.
    unreached: exchanges that are not among them, as nothing is known to run
      them.
    exchanges: the largest of these, and where they come from.
    unknown_loops: loops whose length the text does not tell; counted once.
    largest: the largest results in main memory and where they come from.
    flops: of the step, all devices (see `time_jax.step.flops`).
    estimate: of its time; None where there is none.
    no_estimate: why not.
  """

  topology: str
  device_kind: str
  devices: int
  mesh: dict[str, int]
  global_batch_size: int
  rows_per_device: int
  tokens: int
  accumulation: int
  forced: bool
  fits: bool | None
  reason: str
  needed: int
  capacity: int | None
  compile_seconds: float
  cached: bool = False
  memory: Memory | None = None
  optimizer_total: int = 0
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  relation_matrices: list[str] = dataclasses.field(default_factory=list)
  heads_at_once: float = 0
  collectives: list[Total] = dataclasses.field(default_factory=list)
  unreached: int = 0
  exchanges: list[tuple[str, int, str]] = dataclasses.field(
    default_factory=list
  )
  unknown_loops: int = 0
  largest: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
  flops: int = 0
  estimate: Estimate | None = None
  no_estimate: str = ""


def examine(config: ConfigDict, topology: Topology) -> Report:
  """Compiles the step of a run for a topology and looks at the program.

  Raises:
    UserError: the run would be refused on these devices.
  """
  if config.train.parallel != "jit":
    raise UserError(
      f"train.parallel={config.train.parallel!r} is not compiled ahead of "
      "time; expected 'jit'."
    )
  mesh = assembly.make_mesh(config, topology.devices)
  teacher = assembly.abstract_teacher(config, mesh)
  objective = assembly.make_objective(config, teacher)
  tx = assembly.make_optimizer(config)
  state = train_step.abstract_state(
    objective.student, tx, mesh, **assembly.extras(config)
  )
  batch = abstract_batch(config, mesh)
  how = assembly.make_parallel(config, objective, tx, mesh)
  lowered = how.lower(state, teacher.params, batch)
  start = time.perf_counter()
  compiled, reason, needed = None, "", 0
  with cache_hits() as hits:
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      reason = str(error).partition("\n")[0].strip()
      found = read_memory(str(error))
      if found is None:
        raise  # Not for want of memory.
      needed = found[0]
  rows = config.train.global_batch_size // sharding.batch_ways(mesh)
  report = Report(
    topology=topology.name,
    device_kind=topology.kind,
    devices=mesh.size,
    mesh=dict(mesh.shape),
    global_batch_size=config.train.global_batch_size,
    rows_per_device=rows // config.train.accumulation,
    tokens=config.train.global_batch_size * config.data.seq_len,
    accumulation=config.train.accumulation,
    forced=bool(topology.stands_for),
    fits=None if topology.memory is None else compiled is not None,
    reason=reason,
    needed=needed,
    capacity=topology.memory,
    compile_seconds=time.perf_counter() - start,
    cached=bool(hits),
    flops=flops.step_flops(objective, state.params, batch).total,
  )
  if compiled is None:
    return report
  arguments = state, teacher.params, batch
  return _look_inside(report, config, topology, objective, arguments, compiled)


def abstract_batch(config: ConfigDict, mesh: Mesh) -> Batch:
  """Shape and sharding of a global batch."""
  rows: Any = jax.ShapeDtypeStruct(
    (config.train.global_batch_size, config.data.seq_len),
    jnp.int32,
    sharding=sharding.batch_sharding(mesh),
  )
  return Batch(tokens=rows, segment_ids=rows, positions=rows)


def _look_inside(
  report: Report,
  config: ConfigDict,
  topology: Topology,
  objective: Objective,
  arguments: tuple[train_step.TrainState, Any, Batch],
  compiled: jax.stages.Compiled,
) -> Report:
  text = program.read(compiled.as_text() or "")
  exchanges = collectives(text, report.devices)
  squares = relation_matrices(
    text, config.data.seq_len, objective.num_heads, report.rows_per_device
  )
  whole = config.data.seq_len**2 * report.rows_per_device
  heads = [math.prod(shape.dims) / whole for shape in squares]
  memory = _memory(compiled.memory_analysis(), arguments)
  moved = traffic(text)
  if report.forced:
    report = _judge(report, memory)
    # What a CPU's caches keep, a GPU's kernels would: the program's traffic
    # tells nothing.
    moved = memory.held + memory.optimizer + memory.parameters
  missing = unreached(text, report.devices)
  no_estimate = _why_none(topology, missing)
  return dataclasses.replace(
    report,
    memory=memory,
    optimizer_total=_bytes(_optimizer(arguments[0]), split=False),
    kernels=program.kernels(text),
    relation_matrices=[str(shape) for shape in squares],
    heads_at_once=max(heads, default=0),
    collectives=totals(exchanges),
    unreached=missing,
    exchanges=[
      (found.kind, round(found.sent), found.scope)
      for found in sorted(exchanges, key=lambda one: -one.sent)[:3]
    ],
    unknown_loops=text.unknown_loops,
    largest=[
      (str(found.shapes[0]), found.size, found.scope)
      for found in program.largest(text, 5)
    ],
    estimate=None
    if no_estimate
    else _estimate(topology, report, moved, sum(one.sent for one in exchanges)),
    no_estimate=no_estimate,
  )


def _judge(report: Report, memory: Memory) -> Report:
  """By size alone, for want of the device's own compiler."""
  if report.capacity is None or memory.total <= report.capacity:
    return report
  reason = (
    f"this machine's program takes {memory.total / 1e9:.1f} GB on each device "
    f"of {report.capacity / 1e9:.1f} GB"
  )
  return dataclasses.replace(
    report, fits=False, reason=reason, needed=memory.total
  )


def relation_matrices(
  text: program.Program, side: int, num_heads: int, rows: int
) -> list[program.Shape]:
  """Shapes in memory that hold S x S matrices of the relation loss.

  Those made in its named scope, and any other with a dimension for the
  relation heads, but for what attention makes elsewhere in the models.

  Args:
    text: the program.
    side: S.
    num_heads: R.
    rows: of a micro-batch on one device.
  """
  found = set()
  for shape, scope in program.tensors(text):
    left = list(shape.dims)
    if left.count(side) < 2:
      continue
    names = scope.replace("(", "/").replace(")", "/").split("/")
    for size in (side, side, rows):
      if size in left:
        left.remove(size)
    elsewhere = {"teacher", "student"} & set(names)
    if "relations" in names or (not elsewhere and num_heads in left):
      found.add(shape)
  return sorted(found, key=lambda shape: shape.size, reverse=True)


def _memory(
  analysis: Any, arguments: tuple[train_step.TrainState, Any, Batch]
) -> Memory:
  state, teacher, batch = arguments
  parts = dict(
    parameters=_bytes(state.params),
    optimizer=_bytes(_optimizer(state)),
    teacher=_bytes(teacher),
    batch=_bytes(batch),
  )
  held = analysis.argument_size_in_bytes
  outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  temporaries = analysis.temp_size_in_bytes
  code = analysis.generated_code_size_in_bytes
  return Memory(
    **parts,
    padding=held - sum(parts.values()),
    temporaries=temporaries,
    outputs=outputs,
    code=code,
    total=held + outputs + temporaries + code,
  )


def _optimizer(state: train_step.TrainState) -> Any:
  return {n: tree for n, tree in state.as_trees().items() if n != "params"}


def _bytes(tree: Any, split: bool = True) -> int:
  """Of abstract arrays: what one device holds, or the whole."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape) if split else leaf.shape
    total += math.prod(shape) * leaf.dtype.itemsize
  return total


def _why_none(topology: Topology, missing: int) -> str:
  """Why a step's time cannot be estimated; empty: it can."""
  if topology.link is None or topology.kind not in flops.PEAKS:
    return (
      f"no published peak and bandwidths of {topology.kind!r} are known here"
    )
  if missing:
    return "what the devices tell each other is not known"
  return ""


def _estimate(
  topology: Topology, report: Report, moved: int, sent: float
) -> Estimate:
  peak, link = flops.PEAKS[topology.kind], LINKS[topology.kind]
  ici = topology.axis_bandwidth or link.ici
  speed = peak.bfloat16 * 1e12
  return Estimate(
    compute=report.flops / report.devices / speed,
    hbm=moved / link.hbm,
    ici=sent / ici,
    peak=speed,
    hbm_bandwidth=link.hbm,
    ici_bandwidth=ici,
    source=peak.source,
    link_source=link.source,
  )
