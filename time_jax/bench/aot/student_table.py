"""A run of several students beside runs of each alone, as a table."""

from collections.abc import Mapping, Sequence

from time_jax.bench.aot.variant_report import Report
from time_jax.core.display import aligned_table, byte_size, with_header


def student_table(together: Report, alone: Mapping[str, Report]) -> str:
  """Returns a line for the run, one for each student alone, and their sum.

  Args:
    together: report of the run of all students.
    alone: report of a run of each student, by name, for the same devices and
      with the same batch.
  """
  apart = list(alone.values())
  rows = [
    _row("together", together),
    *(_row(name, report) for name, report in alone.items()),
    _cells("one by one", flops=sum(r.flops for r in apart), step=_sum(apart)),
  ]
  lines = [
    aligned_table(with_header(rows), "<>"),
    "a student alone: a run of its own, whose teacher ends at its own layer",
  ]
  if together.estimate and (sum_of_steps := _sum(apart)):
    best = together.estimate.best / sum_of_steps[0]
    worst = together.estimate.worst / sum_of_steps[1]
    lines.append(
      f"together / one by one, an ESTIMATE: {best:.2f} if all overlaps, "
      f"{worst:.2f} if nothing does"
    )
  return "\n".join(lines)


def _sum(reports: Sequence[Report]) -> tuple[float, float] | None:
  """Returns seconds of all steps, if all overlaps and if nothing does."""
  estimates = [report.estimate for report in reports if report.estimate]
  if len(estimates) < len(reports):
    return None
  return sum(e.best for e in estimates), sum(e.worst for e in estimates)


def _row(name: str, report: Report) -> dict[str, str]:
  fits = {True: "yes", False: "NO", None: "?"}[report.fits]
  sizes = ["", "", ""]
  if memory := report.memory:
    weights = memory.parameters + memory.optimizer
    sizes = [*map(byte_size, (weights, memory.temporaries, memory.total))]
  step = None
  if estimate := report.estimate:
    step = estimate.best, estimate.worst
  return _cells(name, fits, sizes, flops=report.flops, step=step)


def _cells(
  name: str,
  fits: str = "",
  sizes: Sequence[str] = ("", "", ""),
  *,
  flops: int,
  step: tuple[float, float] | None,
) -> dict[str, str]:
  weights, temporaries, total = sizes
  seconds = [f"{s * 1e3:.1f}" for s in step or ()]
  return {
    "": name,
    "fits": fits,
    "weights, optimizer": weights,
    "temporaries": temporaries,
    "in all": total,
    "TFLOP": f"{flops / 1e12:.2f}",
    "ESTIMATE, ms": " - ".join(seconds),
  }
