"""`bench scaling`: how a run's step scales over devices."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from time_jax.bench.common import report
from time_jax.bench.common.flags import Scaling
from time_jax.bench.scaling import plot
from time_jax.bench.scaling.measurement import measure_apart
from time_jax.bench.scaling.points import (
  MODES,
  Point,
  config_for,
  points_of,
  rows_for,
)
from time_jax.config.distill import check_config
from time_jax.core.display import aligned_table, markdown_table, with_header
from time_jax.run import assembly

SCHEMA = "time_jax.bench.scaling/1"
_CPU_NOTE = (
  "CPU devices share the cores of one machine: times and efficiencies say "
  "nothing about hardware. The program and the bytes that devices exchange are "
  "what they would be."
)


def bench_scaling(flags: Scaling) -> int:
  """Measures the step on several numbers of devices and prints a table.

  Each measurement has a process of its own. Rounds go up the numbers and down
  again, so that a machine that changes its speed changes it for all.

  Args:
    flags: flags of the command. The recipe's global batch is that of the
      largest number of devices.

  Returns:
    The exit code, 0.

  Raises:
    UserError: the batch cannot be split so, or devices are missing.
    RunError: a measurement broke off.
  """
  config = flags.config
  check_config(config)
  for flag in ("json", "markdown", "plot"):
    report.check_writable(getattr(flags, flag), flag)
  modes = MODES if flags.mode == "both" else (flags.mode,)
  counts = sorted(set(flags.devices))
  sizes = {mode: rows_for(config, counts, mode) for mode in modes}
  jobs = sorted({(n, size[n]) for size in sizes.values() for n in counts})
  measured: dict[tuple[int, int], list[dict]] = {job: [] for job in jobs}
  for turn in range(flags.repeats):
    for job in jobs if turn % 2 == 0 else reversed(jobs):
      measurement = measure_apart(
        config_for(config, *job),
        job[0],
        flags.steps,
        one_process_each=flags.processes,
      )
      measured[job].append(measurement)
      last = statistics.median(measurement["step_seconds"])
      print(f"{job[0]} device(s), {job[1]} rows: {last * 1e3:.1f} ms a step")
  points = [
    point
    for mode, size in sizes.items()
    for point in points_of(mode, {n: measured[n, size[n]] for n in counts})
  ]
  measurements = [record for job in jobs for record in measured[job]]
  on_cpu = measurements[0]["platform"] == "cpu"
  title = _title(measurements)
  cells = with_header([_row(point) for point in points])
  print(title, aligned_table(cells, "<>"), sep="\n")
  for line in _mesh_lines(measurements):
    print(line)
  if on_cpu:
    print(f"Note: {_CPU_NOTE}")
  report.write(flags.json, SCHEMA, _content(config, points, measurements))
  if flags.markdown:
    notes = f"\n{_CPU_NOTE}\n" if on_cpu else ""
    table = markdown_table(cells, "<")
    flags.markdown.write_text(f"{title}\n\n{table}\n{notes}", encoding="utf-8")
  if flags.plot:
    note = "\nCPU devices share cores: only the bytes sent mean something"
    plot.draw(flags.plot, points, title + note * on_cpu)
  return 0


def _row(point: Point) -> dict[str, str]:
  slowest = point.slowest * 1e3
  return {
    "scaling": point.mode,
    "devices": str(point.devices),
    "rows": str(point.rows),
    "ms a step": f"{point.seconds * 1e3:.1f}",
    "fastest - slowest": f"{point.fastest * 1e3:.1f} - {slowest:.1f}",
    "tokens/s": f"{point.tokens_per_second:,.0f}",
    "efficiency": f"{point.efficiency:.0%}",
    "MB sent/device": f"{point.sent / 1e6:.2f}",
  }


def _title(measurements: Sequence[dict]) -> str:
  first, last = measurements[0], measurements[-1]
  software, hardware = first["software"], first["hardware"]
  count = last["processes"]
  processes = f" in {count} processes" if count > 1 else ""
  return (
    f"{hardware['kind']}, {first['platform']} devices{processes}, "
    f"{hardware['host_cores']} host cores, jax {software['jax']}, "
    f"{first['date'][:10]}"
  )


def _mesh_lines(measurements: Sequence[dict]) -> Iterator[str]:
  """Yields mesh and collectives of every number of devices."""
  for record in {record["devices"]: record for record in measurements}.values():
    kinds = ", ".join(
      f"{total['count']} {total['kind']} {total['sent'] / 1e6:.2f} MB"
      for total in record["collectives"]
    )
    mesh = " ".join(f"{k}={v}" for k, v in record["mesh"].items())
    yield f"{record['devices']} device(s), {mesh}: {kinds or 'no collectives'}"


def _content(
  config: ConfigDict, points: Sequence[Point], measurements: Sequence[dict]
) -> dict[str, Any]:
  efficiency: dict[str, Any] = {}
  for point in points:
    by_devices = efficiency.setdefault(f"efficiency_{point.mode}", {})
    by_devices[str(point.devices)] = point.efficiency
  return {
    "config": config.to_dict(),
    "teacher": "random" if config.teacher.path == assembly.RANDOM else "real",
    "scaling": {"base_n": points[0].devices, **efficiency},
    "points": [dataclasses.asdict(point) for point in points],
    "measurements": list(measurements),
  }
