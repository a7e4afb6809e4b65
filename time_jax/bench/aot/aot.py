"""Compiling a run for devices that are not here: does it fit, what limits."""

import copy
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from time_jax.bench.aot.fit import Estimate, Memory, Report, examine
from time_jax.bench.aot.topology import Topology, find
from time_jax.bench.common.report import check_writable
from time_jax.config.distill import check_config
from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.core.storage import atomic_file
from time_jax.run import assembly, loop
from time_jax.step import machine

_TITLE = 14  # Columns.
_PLACE = 50


def bench_aot(
  config: ConfigDict,
  topology: str,
  *,
  sweep: bool = False,
  batches: Sequence[int] = (),
  meshes: Sequence[str] = (),
  json: pathlib.Path | None = None,
) -> int:
  """Prints what compiling the step of a run for a topology shows.

  Args:
    config: of the run.
    topology: see `topology.find`.
    sweep: whether to compile several variants and recommend one.
    batches: global batch sizes of the sweep; empty: the run's, and four times.
    meshes: DATAxFSDPxTENSOR of the sweep; empty: some that use all devices.
    json: file to write the reports to.

  Returns:
    0, or EXIT_BAD_INPUT if nothing fits.

  Raises:
    UserError: unknown topology, or a run that would be refused on it.
  """
  check_config(config)
  if json:
    check_writable(json)
  # Nothing is computed, and an accelerator of this machine may be in use.
  jax.config.update("jax_platforms", "cpu")
  assembly.teacher_config(config)
  target = find(topology)
  # What is compiled for a TPU cannot be read back where there is none.
  if target.devices[0].platform == "cpu":
    loop.use_compilation_cache()
  if sweep:
    variants = list(_variants(config, len(target.devices), batches, meshes))
    reports = _sweep(variants, target)
  else:
    reports = [examine(config, target)]
    print("\n".join(lines(reports[0], config)))
  if json:
    atomic_file.write_json(json, _content(reports, config))
  return EXIT_BAD_INPUT if all(r.fits is False for r in reports) else 0


def _content(reports: Sequence[Report], config: ConfigDict) -> dict[str, Any]:
  return {
    "schema": "time_jax.bench.aot/1",
    "software": machine.versions(),
    "config": config.to_dict(),
    "reports": [dataclasses.asdict(report) for report in reports],
  }


def lines(report: Report, config: ConfigDict) -> Iterator[str]:
  """A report as text."""
  mesh = " ".join(f"{axis}={size}" for axis, size in report.mesh.items())
  yield _row(
    "topology",
    f"{report.topology}: {report.devices} x {report.device_kind}, {mesh}; jax "
    f"{jax.__version__}, libtpu {machine.versions().get('libtpu', 'none')}",
  )
  split = f"{report.rows_per_device} x {config.data.seq_len} on a device"
  if config.train.accumulation > 1:
    split += f", {config.train.accumulation} times"
  yield _row(
    "batch",
    f"{report.global_batch_size} x {config.data.seq_len} = {report.tokens:,} "
    f"tokens, {split}",
  )
  cached = ", from the cache" if report.cached else ""
  yield _row(
    "compiled", f"in {report.compile_seconds:.0f} s on this machine{cached}"
  )
  if report.fits is False:
    yield _row("fits", f"NO: {report.reason}")
    yield _row("", "try a smaller batch, train.accumulation or mesh.fsdp")
  if report.memory is None:
    return
  yield from _memory_lines(report, report.memory)
  yield from _program_lines(report, config)
  yield from _collective_lines(report)
  if report.estimate:
    yield from _estimate_lines(report, report.estimate)
  else:
    yield _row("ESTIMATE", f"none: {report.no_estimate}.")
  if report.device_kind == "cpu" or report.forced:
    yield _row("note", "forced host devices: collectives and the split of")
    yield _row("", "parameters are real; kernels and temporaries are those of")
    yield _row("", "a CPU's program, not of an accelerator's")


def _row(title: str, text: str) -> str:
  return f"{title:<{_TITLE}} {text}"


def _memory_lines(report: Report, memory: Memory) -> Iterator[str]:
  verdict = "not known, the host's memory is shared"
  if report.capacity:
    share = memory.total / report.capacity
    sure = "by its size, an ESTIMATE" if report.forced else "yes"
    verdict = (
      f"{sure}: {share:.0%} of the {size(report.capacity)} that a program may "
      "use on a device"
    )
  if report.fits is not False:
    yield _row("fits", verdict)
  yield _row("memory", f"{size(memory.total)} on each device:")
  for name, text in (
    ("parameters", "the student's"),
    ("optimizer", "its state"),
    ("teacher", "its parameters"),
    ("batch", "token rows"),
    ("padding", "of these by the device's layout"),
    (
      "temporaries",
      "activations, gradients, gathered parameters"
      + ", of a CPU's program" * report.forced,
    ),
    ("outputs", "results that replace no argument"),
    ("code", "of the program"),
  ):
    yield _row("", f"{size(getattr(memory, name)):>9} {name}: {text}")
  yield _row("largest", "results in memory, each for a part of the step:")
  for shape, count, scope in report.largest:
    yield _row("", f"{size(count):>9} {shape} {_place(scope)}")


def _place(scope: str) -> str:
  """Where something comes from: both ends of the path, which say most."""
  text = scope.removeprefix("jit(train_step)/") or "put in by the compiler"
  half = _PLACE // 2 - 2
  return text if len(text) <= _PLACE else f"{text[:half]}...{text[-half:]}"


def size(count: float) -> str:
  """Bytes with a decimal unit."""
  for unit in ("B", "kB", "MB"):
    if count < 999.5:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.2f} GB"


def _program_lines(report: Report, config: ConfigDict) -> Iterator[str]:
  memory = report.memory
  if memory is None:
    return
  shown = ", ".join(f"{name} x{n}" for name, n in report.kernels.items())
  yield _row("kernels", shown or "none: XLA's own code throughout")
  side, heads = config.data.seq_len, config.relations.num_heads
  if not report.relation_matrices:
    text = f"no {side} x {side} matrix of the loss in memory"
  else:
    most = report.relation_matrices[0]
    whole = "ALL" if report.heads_at_once >= heads else "never all"
    text = (
      f"{side} x {side} matrices of {report.heads_at_once:g} head(s) at a "
      f"time, {most}: {whole} {heads}"
    )
  yield _row("relations", text)
  ways = report.optimizer_total / max(memory.optimizer, 1)
  yield _row(
    "optimizer",
    f"{size(memory.optimizer)} on each device of "
    f"{size(report.optimizer_total)}: split {ways:.2f} ways over "
    f"fsdp={report.mesh['fsdp']} tensor={report.mesh['tensor']}",
  )


def _collective_lines(report: Report) -> Iterator[str]:
  if report.unreached:
    yield _row(
      "collectives",
      f"not known: nothing is known to run {report.unreached} of them",
    )
    return
  if not report.collectives:
    yield _row("collectives", "none")
    return
  yield _row(
    "collectives", f"{'':<20}{'in a step':>9}{'payload':>12}{'sent/device':>13}"
  )
  for found in report.collectives:
    yield _row(
      "",
      f"{found.kind:<20}{found.count:>9}{size(found.payload):>12}"
      f"{size(found.sent):>13}",
    )
  unknown = report.unknown_loops
  extra = f"; {unknown} loop(s) of unknown length count once" if unknown else ""
  yield _row("", f"those in loops times the loop's length{extra}; the most by")
  for kind, sent, scope in report.exchanges:
    yield _row("", f"{size(sent):>9} {kind} {_place(scope)}")


def _estimate_lines(report: Report, estimate: Estimate) -> Iterator[str]:
  yield _row("ESTIMATE", "a roofline, not a measurement; of one step:")
  flops = report.flops / report.devices / 1e12
  for name, seconds, text in (
    (
      "compute",
      estimate.compute,
      f"{flops:.2f} TFLOP at {estimate.peak / 1e12:.0f} TFLOP/s bfloat16",
    ),
    (
      "memory",
      estimate.hbm,
      f"{size(estimate.hbm * estimate.hbm_bandwidth)} at "
      f"{estimate.hbm_bandwidth / 1e9:.0f} GB/s"
      + ", weights and state alone"
      * report.forced,
    ),
    (
      "interconnect",
      estimate.ici,
      f"{size(estimate.ici * estimate.ici_bandwidth)} at "
      f"{estimate.ici_bandwidth / 1e9:.0f} GB/s, "
      + ("NVLink" if report.forced else "rings along one axis"),
    ),
  ):
    yield _row("", f"{seconds * 1e3:>9.2f} ms {name}: {text}")
  best, worst = estimate.best, estimate.worst
  yield _row(
    "",
    f"{best * 1e3:.1f} ms if all overlaps, {worst * 1e3:.1f} ms if nothing "
    f"does: {report.tokens / worst:,.0f} to {report.tokens / best:,.0f} "
    f"tokens/s, MFU {estimate.compute / worst:.0%} to "
    f"{estimate.compute / best:.0%}",
  )
  yield _row("", f"peak: {estimate.source}")
  yield _row("", f"bandwidths: {estimate.link_source}")


def _variants(
  config: ConfigDict,
  devices: int,
  batches: Sequence[int],
  meshes: Sequence[str],
) -> Iterator[ConfigDict]:
  rows = config.train.global_batch_size
  shapes = [read_mesh(mesh) for mesh in meshes] or usual_meshes(devices)
  for batch in batches or (rows, 4 * rows):
    for data, fsdp, tensor in shapes:
      variant = copy.deepcopy(config)
      variant.train.global_batch_size = batch
      variant.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
      yield variant


def read_mesh(text: str) -> tuple[int, int, int]:
  """DATAxFSDPxTENSOR -> the three sizes."""
  parts = text.split("x")
  if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
    raise UserError(
      f"--meshes={text} is no mesh; expected DATAxFSDPxTENSOR, such as 4x4x1."
    )
  data, fsdp, tensor = map(int, parts)
  return data, fsdp, tensor


def usual_meshes(devices: int) -> list[tuple[int, int, int]]:
  """Replicas only, both ways of splitting parameters, and work in halves."""
  some = math.gcd(devices, 4)
  candidates = [
    (devices, 1, 1),
    (devices // some, some, 1),
    (1, devices, 1),
    (devices // 2, 1, 2),
  ]
  return [
    mesh
    for i, mesh in enumerate(candidates)
    if math.prod(mesh) == devices and mesh not in candidates[:i]
  ]


def _sweep(variants: Sequence[ConfigDict], target: Topology) -> list[Report]:
  """Compiles every variant, prints a table, and recommends one."""
  print(
    f"{len(variants)} variants for {target.name}, each in as few micro-batches "
    "as it fits in; ESTIMATES are rooflines"
  )
  header = (
    f"{'batch':>6} {'accum':>5} {'data':>5} {'fsdp':>5} {'tensor':>6} "
    f"{'GB':>7} "
    f"{'fits':>5} {'compute':>9} {'memory':>9} {'links':>9} {'step, ms':>15} "
    f"{'tokens/s at least':>18}"
  )
  print(header)
  reports = []
  for config in variants:
    try:
      report = _fitted(config, target)
    except UserError as error:
      print(f"{config.train.global_batch_size:>6} {error}")
      continue
    reports.append(report)
    print(_sweep_line(report), flush=True)
  print(recommendation(reports))
  return reports


def _fitted(config: ConfigDict, target: Topology) -> Report:
  """The report of a variant, whose accumulation grows until it fits."""
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


def _sweep_line(report: Report) -> str:
  mesh = report.mesh
  start = (
    f"{report.global_batch_size:>6} {report.accumulation:>5} "
    f"{mesh['data']:>5} {mesh['fsdp']:>5} {mesh['tensor']:>6} "
  )
  if report.memory is None or report.fits is False:
    return f"{start}{'':>7} {'NO':>5} {report.reason[:60]}"
  fits = "yes" if report.fits else "?"
  start += f"{report.memory.total / 1e9:>7.2f} {fits:>5}"
  if not (estimate := report.estimate):
    return start
  parts = estimate.compute, estimate.hbm, estimate.ici
  return (
    start
    + "".join(f" {1e3 * part:>9.1f}" for part in parts)
    + f" {1e3 * estimate.best:>6.1f} - {1e3 * estimate.worst:>6.1f}"
    + f" {report.tokens / estimate.worst:>18,.0f}"
  )


def recommendation(reports: Sequence[Report]) -> str:
  """The variant that fits and needs the least time for a token."""
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
  fields: dict[str, Any] = {
    "train.global_batch_size": best.global_batch_size,
    "train.accumulation": best.accumulation,
  }
  fields |= {f"mesh.{axis}": size for axis, size in best.mesh.items()}
  flags = " ".join(f"--config.{name}={value}" for name, value in fields.items())
  return f"Least estimated time for a token: {flags}"
