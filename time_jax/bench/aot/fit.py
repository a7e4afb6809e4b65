"""Compiles a run's step for devices that are not here, and examines it.

The step is the one that `distill` runs, compiled for a topology from shapes
alone: it takes no weights, no text and no accelerator.
"""

import dataclasses
import math
import re
import time
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.bench.aot import program
from time_jax.bench.aot.collectives import collectives, totals, unreached
from time_jax.bench.aot.topology import LINKS, Topology, read_memory
from time_jax.bench.aot.traffic import traffic
from time_jax.bench.aot.variant_report import Estimate, Memory, Report
from time_jax.bench.common.step_runner import cache_hits
from time_jax.config import students
from time_jax.core.arrays import Batch
from time_jax.core.errors import UserError
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step import flops, peaks
from time_jax.step.memory import device_bytes
from time_jax.step.state import abstract_state
from time_jax.step.train_step import States


def examine(config: ConfigDict, topology: Topology) -> Report:
  """Compiles the step of a run for a topology and looks at the program.

  Args:
    config: config of the run; of several students, all are in the step.
    topology: the devices.

  Raises:
    UserError: the devices refuse the run.
  """
  if config.train.parallel != "jit":
    raise UserError(
      f"train.parallel={config.train.parallel!r} is not compiled ahead of "
      "time; expected 'jit'."
    )
  mesh = assembly.make_mesh(config, topology.devices)
  configs = students.effective(config)
  objectives = assembly.abstract_objectives(configs, mesh)
  teacher = next(iter(objectives.values())).teacher
  states = {
    name: abstract_state(
      objectives[name].init, assembly.step_settings(own), mesh
    )
    for name, own in configs.items()
  }
  batch = abstract_batch(config, mesh)
  parallel = assembly.make_parallel(configs, objectives, mesh)
  lowered = parallel.lower(states, teacher.params, batch)
  start = time.perf_counter()
  compiled, reason, needed = None, "", 0
  with cache_hits() as hits:
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      reason = str(error).partition("\n")[0].strip()
      sizes = read_memory(str(error))
      if sizes is None:
        raise  # Something other than a lack of memory.
      needed, _ = sizes
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
    flops=flops.step_flops(
      objectives, {n: state.params for n, state in states.items()}, batch
    ).total,
    relation_heads=sorted({own.num_heads for own in objectives.values()}),
  )
  if compiled is None:
    return report
  memory = _memory(compiled.memory_analysis(), states, teacher.params, batch)
  if report.forced:
    report = judge_by_size(report, memory)
  return dataclasses.replace(
    report,
    memory=memory,
    optimizer_total=_total_bytes(_optimizer(states)),
    **_inspect(report, memory, topology, config, compiled.as_text() or ""),
  )


def abstract_batch(config: ConfigDict, mesh: Mesh) -> Batch:
  """Returns shape and sharding of a global batch."""
  rows: Any = jax.ShapeDtypeStruct(
    (config.train.global_batch_size, config.data.seq_len),
    jnp.int32,
    sharding=sharding.batch_sharding(mesh),
  )
  return Batch(tokens=rows, segment_ids=rows, positions=rows)


def judge_by_size(report: Report, memory: Memory) -> Report:
  """Judges by size whether a program fits, without the device's compiler.

  Args:
    report: what is known of the program; it fits so far.
    memory: memory that this machine's program takes on a device.
  """
  if report.capacity is None or memory.total <= report.capacity:
    return report
  reason = (
    f"this machine's program takes {memory.total / 1e9:.1f} GB on each device "
    f"of {report.capacity / 1e9:.1f} GB"
  )
  return dataclasses.replace(
    report, fits=False, reason=reason, needed=memory.total
  )


def _inspect(
  report: Report,
  memory: Memory,
  topology: Topology,
  config: ConfigDict,
  text: str,
) -> dict[str, Any]:
  """Returns the fields of a report that the program's text tells."""
  compiled = program.read(text)
  seq_len, rows = config.data.seq_len, report.rows_per_device
  squares = relation_matrices(compiled, seq_len, report.relation_heads, rows)
  heads = [math.prod(shape.dims) / (seq_len**2 * rows) for shape in squares]
  exchanges = collectives(compiled, report.devices)
  missing = unreached(compiled, report.devices)
  largest_first = sorted(exchanges, key=lambda exchange: -exchange.sent)
  estimate, no_estimate = None, ""
  if topology.kind not in LINKS or topology.kind not in peaks.PEAKS:
    no_estimate = (
      f"no published peak and bandwidths of {topology.kind!r} are known here"
    )
  elif missing:
    no_estimate = "what the devices tell each other is not known"
  else:
    # With a CPU's program its traffic tells nothing: what a CPU's caches keep,
    # a GPU's kernels would. Then only what each step must move counts.
    must = memory.held + memory.optimizer + memory.parameters
    moved = must if report.forced else traffic(compiled)
    sent = sum(exchange.sent for exchange in exchanges)
    estimate = _estimate(topology, report, moved, sent)
  return {
    "kernels": program.kernels(compiled),
    "relation_matrices": [str(shape) for shape in squares],
    "heads_at_once": max(heads, default=0),
    "collectives": totals(exchanges),
    "unreached": missing,
    "exchanges": [(e.kind, round(e.sent), e.scope) for e in largest_first[:3]],
    "unknown_loops": compiled.unknown_loops,
    "largest": [
      (str(instruction.shapes[0]), instruction.size, instruction.scope)
      for instruction in program.largest(compiled, 5)
    ],
    "estimate": estimate,
    "no_estimate": no_estimate,
  }


def relation_matrices(
  compiled: program.Program,
  side: int,
  relation_heads: Collection[int],
  rows: int,
) -> list[program.Shape]:
  """Finds arrays in memory that hold S x S matrices of the relation loss.

  These are arrays made in its named scope, and others with a dimension for the
  relation heads, unless attention makes them in one of the models.

  Args:
    compiled: the program.
    side: row length S.
    relation_heads: numbers of relation heads R, of one student or several.
    rows: rows of a micro-batch on one device.

  Returns:
    Their shapes, the largest first.
  """
  shapes = set()
  for shape, scope in program.tensors(compiled):
    others = list(shape.dims)
    if others.count(side) < 2:
      continue
    names = re.split(r"[/()]", scope)
    for size in (side, side, rows):
      if size in others:
        others.remove(size)
    in_a_model = {"teacher", "student"} & set(names)
    if "relations" in names or (
      not in_a_model and set(relation_heads) & set(others)
    ):
      shapes.add(shape)
  return sorted(shapes, key=lambda shape: shape.size, reverse=True)


def _memory(
  analysis: Any, states: States, teacher: Any, batch: Batch
) -> Memory:
  parts = dict(
    parameters=device_bytes([state.params for state in states.values()]),
    optimizer=device_bytes(_optimizer(states)),
    teacher=device_bytes(teacher),
    batch=device_bytes(batch),
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


def _optimizer(states: States) -> Any:
  """Returns all of the states but the parameters."""
  return [
    tree
    for state in states.values()
    for name, tree in state.as_trees().items()
    if name != "params"
  ]


def _total_bytes(tree: Any) -> int:
  """Returns the bytes of abstract arrays, all devices together."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _estimate(
  topology: Topology, report: Report, moved: int, sent: float
) -> Estimate:
  """Computes the roofline; each part is work divided by published speed.

  compute = model FLOPs / devices / peak FLOP/s
  hbm = bytes moved / bandwidth of main memory
  ici = bytes sent in rings / bandwidth of a ring along one axis

  See https://jax-ml.github.io/scaling-book/roofline for the method.
  """
  peak, link = peaks.PEAKS[topology.kind], LINKS[topology.kind]
  ici = topology.axis_bandwidth
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
