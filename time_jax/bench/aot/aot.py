"""`bench aot`: compiles a run for devices that are not here.

Does it fit, and what limits it?
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import jax
from ml_collections import ConfigDict

from time_jax.bench.aot.fit import examine
from time_jax.bench.aot.rendering import lines
from time_jax.bench.aot.student_table import student_table
from time_jax.bench.aot.topology import Topology, find
from time_jax.bench.aot.variant_report import Report
from time_jax.bench.common import report as results
from time_jax.bench.common.flags import Aot
from time_jax.config import students
from time_jax.config.distill import check_config
from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.run import assembly
from time_jax.step import machine

# Columns of the sweep's table with their widths: it is printed line by line.
_COLUMNS = {
  "batch": 6,
  "accum": 5,
  "data": 5,
  "fsdp": 5,
  "tensor": 6,
  "GB": 7,
  "fits": 5,
  "compute": 9,
  "memory": 9,
  "links": 9,
  "step, ms": 15,
  "tokens/s at least": 18,
}


def bench_aot(flags: Aot) -> int:
  """Prints what compiling the step of a run for a topology shows.

  A run of several students is compiled with all of them, and unless it is a
  sweep also with each alone.

  Args:
    flags: flags of the command. Without --meshes a sweep tries those of
      `usual_meshes`.

  Returns:
    0, or EXIT_BAD_INPUT if nothing fits.

  Raises:
    UserError: the topology is unknown, or it refuses the run.
  """
  config = flags.config
  check_config(config)
  results.check_writable(flags.json)
  # Nothing is computed, and an accelerator of this machine may be in use.
  jax.config.update("jax_platforms", "cpu")
  configs = students.effective(config)
  assembly.check_students(configs)
  target = find(flags.topology)
  # What is compiled for a TPU cannot be read back where there is none.
  if target.devices[0].platform == "cpu":
    machine.use_compilation_cache()
  alone: dict[str, Report] = {}
  if flags.sweep:
    reports = _sweep(list(_variants(flags, len(target.devices))), target)
  else:
    reports = [examine(config, target)]
    print("\n".join(lines(reports[0], config)), flush=True)
    if len(configs) > 1:
      alone = {name: examine(own, target) for name, own in configs.items()}
      print(student_table(reports[0], alone))
  content = {
    "software": machine.versions(),
    "config": config.to_dict(),
    "reports": [dataclasses.asdict(report) for report in reports],
    "alone": {name: dataclasses.asdict(own) for name, own in alone.items()},
  }
  results.write(flags.json, "time_jax.bench.aot/1", content)
  return EXIT_BAD_INPUT if all(r.fits is False for r in reports) else 0


def _variants(flags: Aot, devices: int) -> Iterator[ConfigDict]:
  rows = flags.config.train.global_batch_size
  shapes = [read_mesh(mesh) for mesh in flags.meshes] or usual_meshes(devices)
  for batch in flags.batches or (rows, 4 * rows):
    for data, fsdp, tensor in shapes:
      variant = copy.deepcopy(flags.config)
      variant.train.global_batch_size = batch
      variant.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
      yield variant


def read_mesh(text: str) -> tuple[int, int, int]:
  """Reads the three sizes of DATAxFSDPxTENSOR."""
  parts = text.split("x")
  if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
    raise UserError(
      f"--meshes={text} is no mesh; expected DATAxFSDPxTENSOR, such as 4x4x1."
    )
  data, fsdp, tensor = map(int, parts)
  return data, fsdp, tensor


def usual_meshes(devices: int) -> list[tuple[int, int, int]]:
  """Returns the meshes that a sweep tries by default.

  They hold replicas only, split parameters in two ways, and halve the work
  inside layers.

  Args:
    devices: number of devices, which each mesh uses all of.
  """
  quarter = math.gcd(devices, 4)
  candidates = [
    (devices, 1, 1),
    (devices // quarter, quarter, 1),
    (1, devices, 1),
    (devices // 2, 1, 2),
  ]
  return [m for m in dict.fromkeys(candidates) if math.prod(m) == devices]


def _sweep(variants: Sequence[ConfigDict], target: Topology) -> list[Report]:
  """Compiles every variant, prints a table, and recommends one."""
  print(
    f"{len(variants)} variants for {target.name}, each in as few micro-batches "
    "as it fits in; ESTIMATES are rooflines"
  )
  print(_line(_COLUMNS))
  reports = []
  for config in variants:
    try:
      report = _fitted(config, target)
    except UserError as error:
      print(_line([str(config.train.global_batch_size)]), error)
      continue
    reports.append(report)
    print(_line(_sweep_cells(report)), flush=True)
  print(recommendation(reports))
  return reports


def _fitted(config: ConfigDict, target: Topology) -> Report:
  """Returns the report of a variant, whose accumulation grows until it fits."""
  report = examine(config, target)
  while report.fits is False and report.rows_per_device % 2 == 0:
    ways = 2
    while (
      2 * ways * (report.capacity or 0) <= report.needed
      and report.rows_per_device % (2 * ways) == 0
    ):
      ways *= 2
    config.train.accumulation *= ways
    report = examine(config, target)
  return report


def _line(cells: Iterable[str]) -> str:
  widths = _COLUMNS.values()
  return " ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=False))


def _sweep_cells(report: Report) -> Iterator[str]:
  yield str(report.global_batch_size)
  yield str(report.accumulation)
  yield from (str(report.mesh[axis]) for axis in ("data", "fsdp", "tensor"))
  if report.memory is None or report.fits is False:
    yield from ("", "NO", report.reason[:60])
    return
  yield f"{report.memory.total / 1e9:.2f}"
  yield "yes" if report.fits else "?"
  if estimate := report.estimate:
    for part in (estimate.compute, estimate.hbm, estimate.ici):
      yield f"{1e3 * part:.1f}"
    yield f"{1e3 * estimate.best:.1f} - {1e3 * estimate.worst:.1f}"
    yield f"{report.tokens / estimate.worst:,.0f}"


def recommendation(reports: Sequence[Report]) -> str:
  """Names the variant that fits and needs the least time for a token."""
  if reports and not any(r.fits is False or r.estimate for r in reports):
    return (
      f"No time is estimated for {reports[0].topology}, so none is the best: "
      f"{reports[0].no_estimate}. Take another --topology of TPUs or GPUs, "
      "such as v5e:4x4 or h100:8."
    )
  fitting = [(r, r.estimate) for r in reports if r.fits and r.estimate]
  if not fitting:
    return (
      "No variant fits, in micro-batches of single rows either: raise "
      "mesh.fsdp, or take a larger slice or a smaller student."
    )
  best, _ = min(fitting, key=lambda pair: pair[1].worst / pair[0].tokens)
  fields = {
    "train.global_batch_size": best.global_batch_size,
    "train.accumulation": best.accumulation,
  }
  fields |= {f"mesh.{axis}": size for axis, size in best.mesh.items()}
  flags = " ".join(f"--config.{name}={value}" for name, value in fields.items())
  return f"Least estimated time for a token: {flags}"
