"""A report of `bench aot` as text."""

from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from time_jax.bench.aot.variant_report import Estimate, Memory, Report
from time_jax.core.display import byte_size
from time_jax.step import machine

_TITLE_WIDTH = 14
_SCOPE_WIDTH = 50
# Fields of `Memory`, in the order in which they are shown.
_MEMORY = {
  "parameters": "of what is trained",
  "optimizer": "its state",
  "teacher": "its parameters",
  "batch": "token rows",
  "padding": "of these by the device's layout",
  "temporaries": "activations, gradients, gathered parameters",
  "outputs": "results that replace no argument",
  "code": "of the program",
}
Section = tuple[str, list[str]]  # title, and the lines to the right of it


def lines(report: Report, config: ConfigDict) -> Iterator[str]:
  """Yields a report line by line.

  Args:
    report: what compiling the run has shown.
    config: recipe of the run.
  """
  for title, texts in _sections(report, config):
    for text in texts:
      yield f"{title:<{_TITLE_WIDTH}} {text}"
      title = ""


def _sections(report: Report, config: ConfigDict) -> Iterator[Section]:
  mesh = " ".join(f"{axis}={size}" for axis, size in report.mesh.items())
  devices = f"{report.devices} x {report.device_kind}, {mesh}"
  libtpu = machine.versions().get("libtpu", "none")
  versions = f"jax {jax.__version__}, libtpu {libtpu}"
  yield "topology", [f"{report.topology}: {devices}; {versions}"]
  accumulation, seq_len = config.train.accumulation, config.data.seq_len
  times = f", {accumulation} times" if accumulation > 1 else ""
  batch = (
    f"{report.global_batch_size} x {seq_len} = {report.tokens:,} tokens, "
    f"{report.rows_per_device} x {seq_len} on a device{times}"
  )
  yield "batch", [batch]
  cached = ", from the cache" if report.cached else ""
  took = f"in {report.compile_seconds:.0f} s on this machine{cached}"
  yield "compiled", [took]
  if report.fits is False:
    advice = "try a smaller batch, train.accumulation or mesh.fsdp"
    yield "fits", [f"NO: {report.reason}", advice]
  if report.memory is None:
    return
  yield from _memory(report, report.memory)
  yield from _program(report, report.memory, config)
  yield "collectives", list(_collectives(report))
  if report.estimate:
    yield "ESTIMATE", _estimate(report, report.estimate)
  else:
    yield "ESTIMATE", [f"none: {report.no_estimate}."]
  if report.device_kind == "cpu" or report.forced:
    forced = [
      "forced host devices: collectives and the split of",
      "parameters are real; kernels and temporaries are those of",
      "a CPU's program, not of an accelerator's",
    ]
    yield "note", forced


def _memory(report: Report, memory: Memory) -> Iterator[Section]:
  verdict = "not known, the host's memory is shared"
  if report.capacity:
    share = memory.total / report.capacity
    sure = "by its size, an ESTIMATE" if report.forced else "yes"
    verdict = (
      f"{sure}: {share:.0%} of the {byte_size(report.capacity)} that a "
      "program may use on a device"
    )
  if report.fits is not False:
    yield "fits", [verdict]
  parts = [f"{byte_size(memory.total)} on each device:"]
  for name, meaning in _MEMORY.items():
    if name == "temporaries" and report.forced:
      meaning += ", of a CPU's program"
    parts.append(f"{byte_size(getattr(memory, name)):>9} {name}: {meaning}")
  yield "memory", parts
  largest = ["results in memory, each for a part of the step:"]
  for shape, count, scope in report.largest:
    largest.append(f"{byte_size(count):>9} {shape} {_short(scope)}")
  yield "largest", largest


def _short(scope: str) -> str:
  """Shortens the path of a scope to its two ends, which say most."""
  text = scope.removeprefix("jit(train_step)/") or "put in by the compiler"
  half = _SCOPE_WIDTH // 2 - 2
  if len(text) <= _SCOPE_WIDTH:
    return text
  return f"{text[:half]}...{text[-half:]}"


def _program(
  report: Report, memory: Memory, config: ConfigDict
) -> Iterator[Section]:
  kernels = ", ".join(f"{name} x{n}" for name, n in report.kernels.items())
  yield "kernels", [kernels or "none: XLA's own code throughout"]
  side, heads = config.data.seq_len, report.relation_heads
  matrices = f"no {side} x {side} matrix of the loss in memory"
  if report.relation_matrices:
    whole = "ALL" if report.heads_at_once >= min(heads) else "never all"
    matrices = (
      f"{side} x {side} matrices of {report.heads_at_once:g} head(s) at a "
      f"time, {report.relation_matrices[0]}: {whole} "
      f"{' or '.join(map(str, heads))}"
    )
  yield "relations", [matrices]
  ways = report.optimizer_total / max(memory.optimizer, 1)
  split = (
    f"{byte_size(memory.optimizer)} on each device of "
    f"{byte_size(report.optimizer_total)}: split {ways:.2f} ways over "
    f"fsdp={report.mesh['fsdp']} tensor={report.mesh['tensor']}"
  )
  yield "optimizer", [split]


def _collectives(report: Report) -> Iterator[str]:
  if report.unreached:
    yield f"not known: nothing is known to run {report.unreached} of them"
    return
  if not report.collectives:
    yield "none"
    return
  yield f"{'':<20}{'in a step':>9}{'payload':>12}{'sent/device':>13}"
  for total in report.collectives:
    payload, sent = byte_size(total.payload), byte_size(total.sent)
    yield f"{total.kind:<20}{total.count:>9}{payload:>12}{sent:>13}"
  unknown = report.unknown_loops
  extra = f"; {unknown} loop(s) of unknown length count once" if unknown else ""
  yield f"those in loops times the loop's length{extra}; the most by"
  for kind, count, scope in report.exchanges:
    yield f"{byte_size(count):>9} {kind} {_short(scope)}"


def _estimate(report: Report, estimate: Estimate) -> list[str]:
  flops = report.flops / report.devices / 1e12
  moved = byte_size(estimate.hbm * estimate.hbm_bandwidth)
  sent = byte_size(estimate.ici * estimate.ici_bandwidth)
  weights = ", weights and state alone" if report.forced else ""
  links = "NVLink" if report.forced else "rings along one axis"
  best, worst = estimate.best, estimate.worst
  return [
    "a roofline, not a measurement; of one step:",
    f"{estimate.compute * 1e3:>9.2f} ms compute: {flops:.2f} TFLOP at "
    f"{estimate.peak / 1e12:.0f} TFLOP/s bfloat16",
    f"{estimate.hbm * 1e3:>9.2f} ms memory: {moved} at "
    f"{estimate.hbm_bandwidth / 1e9:.0f} GB/s{weights}",
    f"{estimate.ici * 1e3:>9.2f} ms interconnect: {sent} at "
    f"{estimate.ici_bandwidth / 1e9:.0f} GB/s, {links}",
    f"{best * 1e3:.1f} ms if all overlaps, {worst * 1e3:.1f} ms if nothing "
    f"does: {report.tokens / worst:,.0f} to {report.tokens / best:,.0f} "
    f"tokens/s, MFU {estimate.compute / worst:.0%} to "
    f"{estimate.compute / best:.0%}",
    f"peak: {estimate.source}",
    f"bandwidths: {estimate.link_source}",
  ]
