"""Time, temporary memory and error of the relation loss's implementations."""

import dataclasses
import functools
import importlib
import importlib.util
import itertools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from time_jax.bench.common import report
from time_jax.core.arrays import Qkv
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.relations.loss import (
  IMPLEMENTATIONS,
  PLATFORMS,
  check_heads,
  relation_sums,
)
from time_jax.run import loop
from time_jax.step import machine, memory

SCHEMA = "time_jax.bench.relations/1"
TORCH = "torch"
Result = tuple[Any, Any]  # value, gradient
# Of the free memory; the rest is for results, and for others.
_SHARE = 0.6
# S x S matrices of every head that PyTorch's form keeps at its highest, seen in
# its allocations: logits, masked ones, probabilities and divergences of both
# sides, and their gradients.
_TORCH_MATRICES = 10


@dataclasses.dataclass(frozen=True)
class Case:
  """What is measured: one relation of a projection with itself.

  Attributes:
    batch_size: rows, each one full document.
    seq_len: tokens of a row.
    num_heads: R.
    teacher_width: of the teacher's projection.
    student_width: of the student's.
    dtype: of both.
  """

  batch_size: int
  seq_len: int
  num_heads: int
  teacher_width: int
  student_width: int
  dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table; what is not known is None.

  Attributes:
    case: what was measured.
    name: the implementation.
    seconds: median of all rounds.
    temporary_bytes: what the compiled program takes beside its arguments and
      results.
    value_error: relative, against the definition in float32.
    gradient_error: largest, in parts of the largest gradient.
    skipped: why it was not run; empty if it was.
  """

  case: Case
  name: str
  seconds: float | None = None
  temporary_bytes: int | None = None
  value_error: float | None = None
  gradient_error: float | None = None
  skipped: str = ""


def bench_relations(
  cases: Sequence[Case],
  *,
  repeats: int,
  with_torch: bool = False,
  json: pathlib.Path | None = None,
) -> int:
  """Prints a table: every implementation, one relation, loss and gradient.

  "To dense" and "to torch" say how many times as fast.
  The rounds alternate between implementations, so that a machine that
  changes its speed changes it for all; each turn is a call that does not count
  and one that does. Medians and ratios are shown.

  Args:
    cases: what to measure.
    repeats: rounds.
    with_torch: whether PyTorch's materialised form is measured, too.
    json: file for the numbers.

  Returns:
    The exit code, 0.
  """
  for case in cases:
    widths = (case.teacher_width, case.student_width)
    check_heads(
      case.num_heads,
      dict(zip(("teacher_width", "student_width"), widths, strict=True)),
    )
  if with_torch and not importlib.util.find_spec("torch"):
    raise UserError("--torch needs PyTorch; try: pip install torch.")
  if json:
    report.check_writable(json)
  if with_torch:  # It needs its share of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  loop.use_compilation_cache()
  about = machine.environment({}, cases[0].dtype)
  versions = [f"jax {jax.__version__}"]
  if with_torch:
    versions.append(f"torch {about['software']['torch']}")
  first = cases[0]
  print(
    f"{about['hardware']['kind']}, {', '.join(versions)}, {first.dtype}; one "
    f"relation, {first.batch_size} rows, widths {first.teacher_width} and "
    f"{first.student_width}; loss and gradient, median of {repeats} "
    "alternating rounds"
  )
  rows: list[Row] = []
  for case in cases:
    rows += measure(case, repeats, with_torch)
    if json:
      content = {"schema": SCHEMA, **about, "repeats": repeats}
      content["rows"] = [dataclasses.asdict(row) for row in rows]
      atomic_file.write_json(json, content)
  print(_table(rows, with_torch))
  for row in rows:
    if row.skipped:
      print(f"{row.name}, S = {row.case.seq_len}: {row.skipped}")
  return 0


def measure(case: Case, repeats: int, with_torch: bool = False) -> list[Row]:
  """Times and compares the implementations, the dense definition first.

  Args:
    case: the sizes.
    repeats: rounds that count.
    with_torch: whether to measure PyTorch as well.
  """
  inputs = _inputs(case)
  rows, programs = _programs(case, inputs)
  if with_torch:
    matrix = case.batch_size * case.num_heads * case.seq_len**2 * 4
    why = _too_large(_TORCH_MATRICES * matrix)
    rows[TORCH] = Row(case, TORCH, skipped=why)
    if not why:
      programs[TORCH] = _torch_program(case, inputs)
  results = {name: program(*inputs) for name, program in programs.items()}
  if TORCH in results:
    value, gradient = map(_torch_module().to_numpy, results[TORCH])
    results[TORCH] = value, gradient
  expected = _definition(case, inputs) if "dense" in programs else None
  seconds = _alternate(programs, inputs, repeats)
  for name, result in results.items():
    errors = _errors(result, expected) if expected else (None, None)
    rows[name] = dataclasses.replace(
      rows[name],
      seconds=statistics.median(seconds[name]),
      value_error=errors[0],
      gradient_error=errors[1],
    )
  return list(rows.values())


def _programs(
  case: Case, inputs: Sequence[Array]
) -> tuple[dict[str, Row], dict[str, Callable[..., Result]]]:
  """A row for every implementation, and the programs of those that can run."""
  rows, programs = {}, {}
  # "auto" is one of the others.
  for name in ["dense", *sorted(set(IMPLEMENTATIONS) - {"dense", "auto"})]:
    platform = PLATFORMS.get(name)
    if platform and platform != jax.default_backend():
      rows[name] = Row(case, name, skipped=f"needs a {platform.upper()}")
      continue
    program = _compile(case, name, inputs)
    need = program.memory_analysis().temp_size_in_bytes
    why = _too_large(need)
    rows[name] = Row(case, name, temporary_bytes=need, skipped=why)
    if not why:
      programs[name] = program
  return rows, programs


def _too_large(need: int) -> str:
  """Why that many bytes are not there; empty if they are."""
  left = memory.free()
  if left is None:  # The device does not tell.
    return ""
  free = int(_SHARE * left)
  if need <= free:
    return ""
  return f"needs {need / 1e9:.1f} GB of {free / 1e9:.1f} GB that may be used"


def _definition(case: Case, inputs: Sequence[Array]) -> Result:
  """What is right: dense, in float32 wherever matrices are multiplied."""
  exact = dataclasses.replace(case, dtype="float32")
  wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in inputs[:2]]
  with jax.default_matmul_precision("highest"):
    return _compile(exact, "dense", [*wide, inputs[2]])(*wide, inputs[2])


def _alternate(
  programs: dict[str, Callable[..., Result]],
  inputs: Sequence[Array],
  repeats: int,
) -> dict[str, list[float]]:
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(repeats):
    for name, program in programs.items():
      # Caches and allocators are another's.
      jax.block_until_ready(program(*inputs))
      start = time.perf_counter()
      jax.block_until_ready(program(*inputs))
      seconds[name].append(time.perf_counter() - start)
  return seconds


def _errors(found: Result, expected: Result) -> tuple[float, float]:
  (value, gradient), (wanted, slope) = (
    [np.asarray(x, np.float32) for x in result] for result in (found, expected)
  )
  return (
    float(np.abs(value / wanted - 1)),
    float(np.abs(gradient - slope).max() / np.abs(slope).max()),
  )


def _inputs(case: Case) -> tuple[Array, Array, Array]:
  keys = jax.random.split(jax.random.key(0))
  shape = (case.batch_size, case.seq_len)
  student, teacher = (
    jax.random.normal(key, (*shape, width)).astype(case.dtype)
    for key, width in zip(
      keys, (case.student_width, case.teacher_width), strict=True
    )
  )
  return student, teacher, jnp.ones(shape, jnp.int32)


def _compile(case: Case, name: str, inputs: Sequence[Array]) -> Any:
  def loss(student: Array, teacher: Array, segment_ids: Array) -> Array:
    sums = relation_sums(
      Qkv(teacher, teacher, teacher),
      Qkv(student, student, student),
      segment_ids,
      num_heads=case.num_heads,
      relations={"qq": 1.0},
      implementation=name,
    )
    return sums["qq"]

  return jax.jit(jax.value_and_grad(loss)).lower(*inputs).compile()


def _torch_program(
  case: Case, inputs: Sequence[Array]
) -> Callable[..., Result]:
  module = _torch_module()
  student, teacher, segments = (module.to_torch(np.asarray(x)) for x in inputs)
  run = functools.partial(
    module.relation_kl, teacher, student, segments > 0, case.num_heads
  )
  return lambda *_: run()


def _torch_module() -> Any:
  # PyTorch is optional.
  return importlib.import_module("time_jax.bench.peers.torch_relations")


def _table(rows: Sequence[Row], with_torch: bool) -> str:
  header = ["implementation", "S", "R", "ms", "to dense"]
  header += ["to torch"] * with_torch
  header += ["temp. MB", "of dense", "loss err.", "grad. err."]
  lines = []
  for _, group in itertools.groupby(rows, lambda row: row.case):
    found = {row.name: row for row in group}
    dense, torch = found["dense"], found.get(TORCH, Row(rows[0].case, TORCH))
    for row in found.values():
      times = [_ratio(dense.seconds, row.seconds)]
      times += [_ratio(torch.seconds, row.seconds)] * with_torch
      share = _ratio(row.temporary_bytes, dense.temporary_bytes)
      lines.append(
        [
          row.name,
          str(row.case.seq_len),
          str(row.case.num_heads),
          _show(row.seconds, lambda x: f"{x * 1e3:.1f}"),
          *(_show(x, "{:.2f}x".format) for x in times),
          _show(row.temporary_bytes, lambda x: f"{x / 1e6:.1f}"),
          _show(share, "{:.1%}".format),
          _show(row.value_error, "{:.1e}".format),
          _show(row.gradient_error, "{:.1e}".format),
        ]
      )
  return report.table(header, lines)


def _ratio(a: float | None, b: float | None) -> float | None:
  return None if a is None or b is None else a / max(b, 1e-9)


def _show(value: Any, how: Callable[[Any], str]) -> str:
  return "-" if value is None else how(value)
