"""`bench relations`: the implementations of the relation loss.

Time, temporary memory and error of one relation, with its gradient.
"""

import dataclasses
import importlib
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from time_jax.bench.common import report
from time_jax.bench.common.flags import Relations
from time_jax.core.arrays import Qkv
from time_jax.core.display import aligned_table, byte_size, number, with_header
from time_jax.core.errors import UserError
from time_jax.relations.loss import (
  IMPLEMENTATIONS,
  PLATFORMS,
  check_heads,
  relation_sums,
)
from time_jax.step import machine, memory

SCHEMA = "time_jax.bench.relations/1"
TORCH = "torch"
Result = tuple[Any, Any]  # value, gradient
Program = Callable[..., Result]
# Share of the free memory that may be used; the rest is for results.
_SHARE = 0.6
# T x S matrices of every head that PyTorch holds at its peak, in float32: the
# logarithms of both relations, the teacher's relation, and of `kl_div` the
# difference and the product. Autograd keeps fewer, and backward needs no more.
_TORCH_MATRICES = 5


@dataclasses.dataclass(frozen=True)
class Case:
  """Sizes of a measurement: one relation of a projection with itself.

  Attributes:
    batch_size: number of rows, each one full document.
    seq_len: tokens of a row.
    num_heads: number of relation heads R.
    teacher_width: width of the teacher's projection.
    student_width: width of the student's projection.
    dtype: type of both projections.
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
    case: the sizes.
    name: name of the implementation.
    seconds: median of all rounds.
    temporary_bytes: memory of the compiled program beside its arguments and
      results.
    value_error: relative error, compared with the definition in float32.
    gradient_error: largest error, as a share of the largest gradient.
    skipped: reason why it was not run; empty if it was.
  """

  case: Case
  name: str
  seconds: float | None = None
  temporary_bytes: int | None = None
  value_error: float | None = None
  gradient_error: float | None = None
  skipped: str = ""


def bench_relations(flags: Relations) -> int:
  """Prints a table of every implementation: one relation, loss and gradient.

  The columns "to dense" and "to torch" say how many times as fast as these an
  implementation is. Rounds alternate between the implementations, so that a
  machine that changes its speed changes it for all; a turn is a call that does
  not count and one that does. Medians are shown.

  Args:
    flags: flags of the command.

  Returns:
    The exit code, 0.

  Raises:
    UserError: R does not divide the widths, PyTorch is missing, or the file
      cannot be written.
  """
  widths = flags.teacher_width, flags.student_width
  names = ("teacher_width", "student_width")
  for heads in flags.num_heads:
    check_heads(heads, dict(zip(names, widths, strict=True)))
  if flags.torch and not importlib.util.find_spec("torch"):
    raise UserError("--torch needs PyTorch; try: pip install torch.")
  report.check_writable(flags.json)
  if flags.torch:  # It needs its share of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  machine.use_compilation_cache()
  about = machine.environment({}, flags.dtype)
  version = f"jax {about['software']['jax']}"
  if flags.torch:
    version += f", torch {about['software'][TORCH]}"
  print(
    f"{about['hardware']['kind']}, {version}, {flags.dtype}; one relation, "
    f"{flags.batch_size} rows, widths {widths[0]} and {widths[1]}; loss and "
    f"gradient, median of {flags.repeats} alternating rounds"
  )
  rows: list[Row] = []
  for heads, seq_len in itertools.product(flags.num_heads, flags.seq_lens):
    case = Case(flags.batch_size, seq_len, heads, *widths, flags.dtype)
    rows += measure(case, flags.repeats, flags.torch)
    content = {
      "repeats": flags.repeats,
      "rows": [dataclasses.asdict(row) for row in rows],
    }
    report.write(flags.json, SCHEMA, about | content)
  print(_table(rows, flags.torch))
  for row in rows:
    if row.skipped:
      print(f"{row.name}, S = {row.case.seq_len}: {row.skipped}")
  return 0


def measure(case: Case, repeats: int, with_torch: bool = False) -> list[Row]:
  """Times and compares the implementations, the dense definition first.

  Args:
    case: the sizes.
    repeats: number of rounds that count.
    with_torch: whether to measure PyTorch as well.
  """
  inputs = _inputs(case)
  # "auto" is one of the others.
  names = ["dense", *sorted(set(IMPLEMENTATIONS) - {"dense", "auto"})]
  rows: dict[str, Row] = {}
  programs: dict[str, Program] = {}
  for name in names:
    platform = PLATFORMS.get(name)
    if platform and platform != jax.default_backend():
      rows[name] = Row(case, name, skipped=f"needs a {platform.upper()}")
      continue
    program = _compile(case, name, inputs)
    need = program.memory_analysis().temp_size_in_bytes
    rows[name] = Row(case, name, temporary_bytes=need, skipped=_too_large(need))
    programs[name] = program
  if with_torch:
    matrix = case.batch_size * case.num_heads * case.seq_len**2 * 4
    rows[TORCH] = Row(case, TORCH, skipped=_too_large(_TORCH_MATRICES * matrix))
    if not rows[TORCH].skipped:
      programs[TORCH] = _torch_program(case, inputs)
  programs = {k: p for k, p in programs.items() if not rows[k].skipped}
  results = {name: program(*inputs) for name, program in programs.items()}
  if TORCH in results:
    value, gradient = map(_torch_device().to_numpy, results[TORCH])
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


def _too_large(need: int) -> str:
  """Returns why that many bytes may not be used; empty if they may."""
  free = memory.free()
  if free is None or need <= _SHARE * free:  # None: the device does not tell.
    return ""
  return (
    f"needs {byte_size(need)} of {byte_size(_SHARE * free)} that may be used"
  )


def _definition(case: Case, inputs: Sequence[Array]) -> Result:
  """Computes the reference: the definition in float32, with exact products."""
  wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in inputs[:2]]
  with jax.default_matmul_precision("highest"):
    return _compile(case, "dense", [*wide, inputs[2]])(*wide, inputs[2])


def _alternate(
  programs: Mapping[str, Program], inputs: Sequence[Array], repeats: int
) -> dict[str, list[float]]:
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(repeats):
    for name, program in programs.items():
      # Before it, caches and allocators are in another program's state.
      jax.block_until_ready(program(*inputs))
      start = time.perf_counter()
      jax.block_until_ready(program(*inputs))
      seconds[name].append(time.perf_counter() - start)
  return seconds


def _errors(result: Result, expected: Result) -> tuple[float, float]:
  value, gradient = (np.asarray(x, np.float32) for x in result)
  exact, exact_gradient = (np.asarray(x, np.float32) for x in expected)
  return (
    float(np.abs(value / exact - 1)),
    float(
      np.abs(gradient - exact_gradient).max() / np.abs(exact_gradient).max()
    ),
  )


def _inputs(case: Case) -> tuple[Array, Array, Array]:
  """Returns random student and teacher projections, and segment ids."""
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


def _torch_program(case: Case, inputs: Sequence[Array]) -> Program:
  to_torch = _torch_device().to_torch
  student, teacher, mask = (to_torch(np.asarray(x)) for x in inputs)
  module = importlib.import_module("time_jax.bench.peers.torch_relations")
  operands = teacher, student, mask, case.num_heads
  return lambda *_: module.value_and_grad(*operands)


def _torch_device() -> Any:
  # PyTorch is optional.
  return importlib.import_module("time_jax.bench.peers.torch_device")


def _table(rows: Sequence[Row], with_torch: bool) -> str:
  lines = []
  for case, group in itertools.groupby(rows, lambda row: row.case):
    by_name = {row.name: row for row in group}
    dense = by_name["dense"]
    for row in by_name.values():
      line = {
        "implementation": row.name,
        "S": str(case.seq_len),
        "R": str(case.num_heads),
        "ms": number(row.seconds and row.seconds * 1e3, ".1f"),
        "to dense": _ratio(dense.seconds, row.seconds, ".2f", "x"),
      }
      if with_torch:
        torch = by_name[TORCH]
        line["to torch"] = _ratio(torch.seconds, row.seconds, ".2f", "x")
      need = row.temporary_bytes
      lines.append(
        {
          **line,
          "temp. MB": number(need and need / 1e6, ".1f"),
          "of dense": _ratio(need, dense.temporary_bytes, ".1%"),
          "loss err.": number(row.value_error, ".1e"),
          "grad. err.": number(row.gradient_error, ".1e"),
        }
      )
  return aligned_table(with_header(lines), "<>")


def _ratio(a: float | None, b: float | None, form: str, unit: str = "") -> str:
  known = a is not None and b is not None
  return number(a / max(b, 1e-9) if known else None, form, unit)
