"""What students of one teacher cost: together, and each for itself."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.common import rounds
from time_jax.bench.common.step_runner import StepRunner
from time_jax.core.arrays import Batch
from time_jax.core.display import aligned_table, byte_size, with_header
from time_jax.step.memory import device_bytes

_ROUNDS = 5
# A goal, not a limit: what a step of all may take of the sum of its parts.
_GOAL = 1.05
_TEACHER, _TOGETHER = ("the teacher",), ()  # The others are (NAME,).
_SIZES = ("weights", "optimizer", "temporaries")
Times = Mapping[tuple[str, ...], Sequence[float]]


def measure(
  runner: StepRunner, batch: Batch, steps: int, temporaries: int
) -> dict[str, Any]:
  """Times the step of all students, the teacher alone, and each student alone.

  They are measured in turns. A student alone is a step that trains no other
  one; without the time of the teacher it is the student's own part.

  Args:
    runner: the run; its step of all students is compiled and warm.
    batch: batch on the devices, which is used again and again.
    steps: steps of each that count; they are divided into rounds.
    temporaries: bytes that the step of all needs on a device beside arguments.

  Returns:
    The part of the report that tells of single students.
  """
  names = list(runner.configs)
  programs = {name: runner.compile(batch, name) for name in names}
  each = -(-steps // _ROUNDS)

  def seconds(what: tuple[str, ...]) -> float:
    batches = itertools.repeat(batch)
    if what == _TEACHER:
      window = runner.teacher_window(batches, each)
    else:
      window = runner.window(batches, each, *what)
    return statistics.fmean(window.seconds)

  singles = [(name,) for name in names]
  # The first round warms up and does not count.
  count = 1 + min(_ROUNDS, steps)
  found = rounds.in_turns([_TOGETHER, _TEACHER, *singles], count, seconds)
  result = summary(names, {what: own[1:] for what, own in found.items()})
  whole = runner.flops(batch)
  for name, own in result["students"].items():
    counted, state = runner.flops(batch, name), runner.states[name]
    weights = device_bytes(state.params)
    own |= {
      "flops": counted.student + counted.relations,
      "weights_bytes": weights,
      "optimizer_bytes": device_bytes(state) - weights,
      "temporaries_bytes": programs[name]["memory"]["program"]["temporaries"],
    }
  return result | {
    "teacher_flops": whole.teacher,
    "flops": whole.total,
    "teacher_bytes": device_bytes(runner.teacher_params),
    "temporaries_bytes": temporaries,
    "layers": {n: config.teacher.layer for n, config in runner.configs.items()},
  }


def summary(names: Sequence[str], times: Times) -> dict[str, Any]:
  """Compares the step of all students with the sum of its parts.

  Args:
    names: the students.
    times: seconds of a step in each round: of all together, by an empty key; of
      the teacher, by ("the teacher",); and of each alone, by (NAME,).
  """
  together, teacher = times[_TOGETHER], times[_TEACHER]
  alone = [times[(name,)] for name in names]
  own = [
    [whole - shared for whole, shared in zip(one, teacher, strict=True)]
    for one in alone
  ]
  parts = [sum(part) for part in zip(teacher, *own, strict=True)]
  one_by_one = [sum(step) for step in zip(*alone, strict=True)]
  median = statistics.median
  return {
    "rounds": len(together),
    "together_s": median(together),
    "teacher_s": median(teacher),
    "sum_of_parts_s": median(parts),
    "ratio": rounds.ratio(together, parts),
    "one_by_one_s": median(one_by_one),
    "of_one_by_one": rounds.ratio(together, one_by_one),
    "students": {
      name: {"alone_s": median(whole), "own_s": median(part)}
      for name, whole, part in zip(names, alone, own, strict=True)
    },
  }


def as_text(found: Mapping[str, Any]) -> str:
  """Returns the result of `measure` as people read it."""
  rows = [
    _row(
      name,
      own["alone_s"],
      own["own_s"],
      own["flops"],
      [
        own[f"{kind}_bytes"] for kind in ("weights", "optimizer", "temporaries")
      ],
    )
    for name, own in found["students"].items()
  ]
  teacher, parts = found["teacher_s"], found["sum_of_parts_s"]
  whole, needs = found["flops"], found["temporaries_bytes"]
  weights = found["teacher_bytes"]
  rows += [
    _row("teacher", None, teacher, found["teacher_flops"], [weights]),
    _row("sum of parts", None, parts, whole, []),
    _row("together", None, found["together_s"], whole, ["", "", needs]),
  ]
  lines = [
    aligned_table(with_header(rows), "<>"),
    "alone: a step that trains this student only; own: without the teacher's "
    "time",
    f"together / sum of parts: {found['ratio']:.3f} (goal: at most {_GOAL})",
    f"together / one by one: {found['of_one_by_one']:.3f}; both are medians "
    f"of {found['rounds']} rounds in turns",
  ]
  if len(layers := {*found["layers"].values()}) > 1:
    lines.append(
      f"the teacher runs up to layer {max(layers)} in all of these; in a run "
      "of one student\nit ends at that student's"
    )
  return "\n".join(lines)


def _row(
  name: str,
  alone: float | None,
  own: float,
  flops: int,
  sizes: Sequence[int | str],
) -> dict[str, str]:
  cells = [x if isinstance(x, str) else byte_size(x) for x in sizes]
  return {
    "": name,
    "alone ms": "" if alone is None else f"{alone * 1e3:,.1f}",
    "own ms": f"{own * 1e3:,.1f}",
    "TFLOP": f"{flops / 1e12:.3f}",
    **dict(itertools.zip_longest(_SIZES, cells, fillvalue="")),
  }
