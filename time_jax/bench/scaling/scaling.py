"""How a run's step scales over devices: times, efficiency, bytes exchanged."""

import copy
import dataclasses
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from time_jax.bench.common.report import check_writable, table
from time_jax.config.distill import check_config
from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file
from time_jax.hf.files import read_json
from time_jax.run import assembly

SCHEMA = "time_jax.bench.scaling/1"
MODES = ("weak", "strong")
_LAUNCHER = pathlib.Path(__file__).parents[3] / "launch" / "local_processes.sh"
_WORKER = "time_jax.bench.scaling.worker"
_CPU_NOTE = (
  "CPU devices share the cores of one machine: times and efficiencies say "
  "nothing about hardware. The program and the bytes that devices exchange are "
  "what they would be."
)


@dataclasses.dataclass(frozen=True)
class Point:
  """One number of devices, in one mode.

  Attributes:
    mode: "weak", rows of a device stay the same; "strong", those of all do.
    devices: their number.
    rows: of the global batch.
    seconds: median of a step over all rounds; then the extremes.
    fastest: see seconds.
    slowest: see seconds.
    tokens_per_second: of all devices, at the median.
    efficiency: tokens/s over what as many devices would reach if each were as
      fast as those of the smallest number.
    sent: bytes that each device sends in a step.
  """

  mode: str
  devices: int
  rows: int
  seconds: float
  fastest: float
  slowest: float
  tokens_per_second: float
  efficiency: float
  sent: int


def bench_scaling(
  config: ConfigDict,
  counts: Sequence[int],
  *,
  mode: str = "both",
  processes: bool = False,
  steps: int = 5,
  repeats: int = 2,
  json: pathlib.Path | None = None,
  markdown: pathlib.Path | None = None,
  plot: pathlib.Path | None = None,
) -> int:
  """Measures the step on several numbers of devices and prints a table.

  Each measurement has a process of its own. Rounds go up the numbers and down
  again, so that a machine that changes its speed changes it for all.

  Args:
    config: of the run; its global batch is that of the largest number.
    counts: numbers of devices: real ones, or CPU devices of this machine.
    mode: "weak", "strong" or "both".
    processes: one process a device, on this machine.
    steps: that count, in each measurement.
    repeats: rounds.
    json: where to write all numbers.
    markdown: where to write the table.
    plot: where to draw it, PNG.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a batch that cannot be split so, or devices that are not there.
    RunError: a measurement broke off.
  """
  check_config(config)
  files = {"json": json, "markdown": markdown, "plot": plot}
  for flag, path in files.items():
    if path:
      check_writable(path, flag)
  modes = MODES if mode == "both" else (mode,)
  counts = sorted(set(counts))
  sizes = {m: rows_for(config, counts, m) for m in modes}
  jobs = sorted({(n, size[n]) for size in sizes.values() for n in counts})
  found: dict[tuple[int, int], list[dict]] = {job: [] for job in jobs}
  for turn in range(repeats):
    for job in jobs if turn % 2 == 0 else reversed(jobs):
      found[job].append(_measure(config, *job, steps, processes))
      last = statistics.median(found[job][-1]["step_seconds"])
      print(f"{job[0]} device(s), {job[1]} rows: {last * 1e3:.1f} ms a step")
  points = [
    point
    for name, size in sizes.items()
    for point in points_of(name, {n: found[n, size[n]] for n in counts})
  ]
  records = [record for job in jobs for record in found[job]]
  lines = list(_lines(points, records))
  print("\n".join(lines))
  if json:
    atomic_file.write_json(json, _content(config, points, records))
  if markdown:
    text = "\n".join(_markdown(points, records)) + "\n"
    markdown.write_text(text, encoding="utf-8")
  if plot:
    on_cpu = records[0]["platform"] == "cpu"
    note = "\nCPU devices share cores: only the bytes sent mean something"
    draw(plot, points, lines[0] + note * on_cpu)
  return 0


def rows_for(
  config: ConfigDict, counts: Sequence[int], mode: str
) -> dict[int, int]:
  """Number of devices -> rows of the global batch."""
  rows, most = config.train.global_batch_size, max(counts)
  if mode == "strong":
    return dict.fromkeys(counts, rows)
  if rows % most:
    raise UserError(
      f"train.global_batch_size={rows} must be divisible by the largest number "
      f"of devices, {most}; the next one up is {-(-rows // most) * most}."
    )
  return {n: rows // most * n for n in counts}


def mesh_for(config: ConfigDict, count: int) -> dict[str, int]:
  """The run's mesh, with what of fsdp and tensor so many devices can hold."""
  wanted = {name: config.mesh[name] for name in ("tensor", "fsdp")}
  left, mesh = count, {}
  for name, size in wanted.items():
    mesh[name] = left if size == -1 else math.gcd(size, left)
    left //= mesh[name]
  return {"data": left} | mesh


def _measure(
  config: ConfigDict, count: int, rows: int, steps: int, processes: bool
) -> dict[str, Any]:
  config = copy.deepcopy(config)
  config.train.global_batch_size = rows
  config.mesh.update(mesh_for(config, count))
  with tempfile.TemporaryDirectory() as folder:
    job, out = pathlib.Path(folder) / "job.json", pathlib.Path(folder) / "out"
    content = {
      "config": config.to_dict(),
      "devices": count,
      "steps": steps,
      "out": str(out),
    }
    atomic_file.write_json(job, content)
    environment = dict(os.environ)
    if processes:
      words = [str(_LAUNCHER), str(count), str(job)]
      environment |= {"MODULE": _WORKER, "PYTHON": sys.executable}
    else:
      words = [sys.executable, "-m", _WORKER, str(job)]
      environment |= {"JAX_NUM_CPU_DEVICES": str(count)}
    done = subprocess.run(
      words, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode or not out.exists():
      _complain(done, count)
    return read_json(out)


def _complain(done: subprocess.CompletedProcess[str], count: int) -> None:
  lines = done.stderr.strip().splitlines() or ["no message"]
  known = [x for x in lines if x.startswith("time_jax: error: ")]
  if known:
    raise UserError(known[0].removeprefix("time_jax: error: "))
  raise RunError(
    f"the measurement on {count} device(s) ended with code {done.returncode}: "
    f"{lines[-1]}"
  )


def points_of(mode: str, found: dict[int, list[dict]]) -> Iterator[Point]:
  """The points of one mode, from the smallest number of devices up."""
  base = 0.0
  for count, records in found.items():
    seconds = [s for record in records for s in record["step_seconds"]]
    median = statistics.median(seconds)
    speed = records[0]["tokens"] / median
    base = base or speed / count
    yield Point(
      mode=mode,
      devices=count,
      rows=records[0]["rows"],
      seconds=median,
      fastest=min(seconds),
      slowest=max(seconds),
      tokens_per_second=speed,
      efficiency=speed / (count * base),
      sent=sum(one["sent"] for one in records[0]["collectives"]),
    )


_HEADER = (
  "scaling",
  "devices",
  "rows",
  "ms a step",
  "fastest - slowest",
  "tokens/s",
  "efficiency",
  "MB sent/device",
)


def _cells(point: Point) -> tuple[str, ...]:
  return (
    point.mode,
    str(point.devices),
    str(point.rows),
    f"{point.seconds * 1e3:.1f}",
    f"{point.fastest * 1e3:.1f} - {point.slowest * 1e3:.1f}",
    f"{point.tokens_per_second:,.0f}",
    f"{point.efficiency:.0%}",
    f"{point.sent / 1e6:.2f}",
  )


def _title(records: Sequence[dict]) -> str:
  first, last = records[0], records[-1]
  software, hardware = first["software"], first["hardware"]
  by = f" in {last['processes']} processes" if last["processes"] > 1 else ""
  return (
    f"{hardware['kind']}, {first['platform']} devices{by}, "
    f"{hardware['host_cores']} host cores, jax {software['jax']}, "
    f"{first['date'][:10]}"
  )


def _lines(points: Sequence[Point], records: Sequence[dict]) -> Iterator[str]:
  yield _title(records)
  yield table(_HEADER, [_cells(point) for point in points])
  for record in {record["devices"]: record for record in records}.values():
    kinds = ", ".join(
      f"{one['count']} {one['kind']} {one['sent'] / 1e6:.2f} MB"
      for one in record["collectives"]
    )
    mesh = " ".join(f"{k}={v}" for k, v in record["mesh"].items())
    yield f"{record['devices']} device(s), {mesh}: {kinds or 'no collectives'}"
  if records[0]["platform"] == "cpu":
    yield f"Note: {_CPU_NOTE}"


def _markdown(
  points: Sequence[Point], records: Sequence[dict]
) -> Iterator[str]:
  yield from (_title(records), "")
  for cells in (_HEADER, ["---"] * len(_HEADER), *map(_cells, points)):
    yield f"| {' | '.join(cells)} |"
  if records[0]["platform"] == "cpu":
    yield from ("", _CPU_NOTE)


def _content(
  config: ConfigDict, points: Sequence[Point], records: Sequence[dict]
) -> dict[str, Any]:
  efficiency = {
    f"efficiency_{mode}": {
      str(point.devices): point.efficiency
      for point in points
      if point.mode == mode
    }
    for mode in dict.fromkeys(point.mode for point in points)
  }
  return {
    "schema": SCHEMA,
    "config": config.to_dict(),
    "teacher": "random" if config.teacher.path == assembly.RANDOM else "real",
    "scaling": {"base_n": points[0].devices, **efficiency},
    "points": [dataclasses.asdict(point) for point in points],
    "measurements": list(records),
  }


_MARKERS = {"weak": "o", "strong": "s"}


def draw(path: pathlib.Path, points: Sequence[Point], title: str) -> None:
  """Draws speed, efficiency and bytes sent over the number of devices."""
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4), layout="constrained")
  figure.suptitle(title, fontsize=9)
  panels = figure.subplots(1, 3)
  for mode in dict.fromkeys(point.mode for point in points):
    own = [point for point in points if point.mode == mode]
    x = [point.devices for point in own]
    speed = np.array([point.tokens_per_second for point in own])
    seconds = np.array([[p.slowest, p.seconds, p.fastest] for p in own]).T
    low, _, high = speed * seconds[1] / seconds
    style: Any = dict(
      marker=_MARKERS[mode], fillstyle="none", capsize=3, label=mode
    )
    bars = panels[0].errorbar(x, speed, (speed - low, high - speed), **style)
    del style["capsize"]
    ideal = [speed[0] * n / x[0] for n in x]
    panels[0].plot(x, ideal, linestyle=":", color=bars[0].get_color())
    panels[1].plot(x, [100 * point.efficiency for point in own], **style)
    panels[2].plot(x, [point.sent / 1e6 for point in own], **style)
  panels[0].set(
    ylabel="tokens/s (dotted: efficiency 100 %)",
  )
  panels[0].set_yscale("log", base=2)
  panels[0].yaxis.set_major_formatter("{x:,.0f}")
  panels[1].set(ylabel="efficiency, %", ylim=(0, None))
  panels[2].set(ylabel="MB sent by each device in a step", ylim=(0, None))
  counts = sorted({point.devices for point in points})
  for axes in panels:
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("devices")
    axes.grid(alpha=0.3)
    axes.legend()
  figure.savefig(path, dpi=120, format="png")
