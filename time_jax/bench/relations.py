"""Time, temporary memory and error of the relation loss's implementations."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from time_jax.arrays import Qkv
from time_jax.relations.loss import (
  IMPLEMENTATIONS,
  check_heads,
  relation_sums,
)


class Row(NamedTuple):
  """One line of the table."""

  name: str
  seconds: float
  temporary_bytes: int
  value_error: float
  gradient_error: float


def bench_relations(
  *,
  batch_size: int,
  seq_len: int,
  num_heads: int,
  teacher_width: int,
  student_width: int,
  repeats: int,
) -> int:
  """Prints a table: every implementation, one relation, loss and gradient.

  The rounds alternate between implementations, so that a machine that
  changes its speed changes it for all; medians and ratios are shown.

  Args:
    batch_size: rows, each one full document.
    seq_len: tokens of a row.
    num_heads: R.
    teacher_width: of the teacher's projection.
    student_width: of the student's.
    repeats: rounds that count, after one that does not.

  Returns:
    The exit code, 0.
  """
  check_heads(
    num_heads,
    {"teacher_width": teacher_width, "student_width": student_width},
  )
  device = jax.devices()[0]
  print(
    f"{device.device_kind}, jax {jax.__version__}, float32; one relation, "
    f"{batch_size} x {seq_len}, R = {num_heads}, widths {teacher_width} and "
    f"{student_width}; loss and gradient, median of {repeats} alternating "
    "rounds"
  )
  rows = measure(
    _inputs(batch_size, seq_len, teacher_width, student_width),
    num_heads,
    repeats,
  )
  base = rows[0]
  print(
    f"{'implementation':<15}{'ms':>9}{'speed-up':>10}{'temp. MB':>10}"
    f"{'of dense':>10}{'loss err.':>11}{'grad. err.':>11}"
  )
  for row in rows:
    share = row.temporary_bytes / max(base.temporary_bytes, 1)
    print(
      f"{row.name:<15}{row.seconds * 1e3:>9.1f}"
      f"{base.seconds / row.seconds:>9.2f}x{row.temporary_bytes / 1e6:>10.1f}"
      f"{share:>10.1%}{row.value_error:>11.1e}{row.gradient_error:>11.1e}"
    )
  return 0


def measure(
  inputs: tuple[Array, Array, Array], num_heads: int, repeats: int
) -> list[Row]:
  """Times and compares all implementations, the dense definition first.

  Args:
    inputs: student and teacher projection, segment ids.
    num_heads: R.
    repeats: rounds that count.
  """
  names = sorted(IMPLEMENTATIONS, key=lambda name: name != "dense")
  programs = {name: _compile(name, num_heads, inputs) for name in names}
  results = {name: program(*inputs) for name, program in programs.items()}
  times: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(repeats):
    for name, program in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(program(*inputs))
      times[name].append(time.perf_counter() - start)
  value, gradient = results["dense"]
  scale = jnp.max(jnp.abs(gradient))
  return [
    Row(
      name,
      statistics.median(times[name]),
      _temporary_bytes(programs[name]),
      float(jnp.abs(results[name][0] / value - 1)),
      float(jnp.max(jnp.abs(results[name][1] - gradient)) / scale),
    )
    for name in names
  ]


def _inputs(
  batch_size: int, seq_len: int, teacher_width: int, student_width: int
) -> tuple[Array, Array, Array]:
  keys = jax.random.split(jax.random.key(0))
  shape = (batch_size, seq_len)
  return (
    jax.random.normal(keys[0], (*shape, student_width)),
    jax.random.normal(keys[1], (*shape, teacher_width)),
    jnp.ones(shape, jnp.int32),
  )


def _compile(
  name: str, num_heads: int, inputs: tuple[Array, Array, Array]
) -> Callable[..., tuple[Array, Array]]:
  def loss(student: Array, teacher: Array, segment_ids: Array) -> Array:
    sums = relation_sums(
      Qkv(teacher, teacher, teacher),
      Qkv(student, student, student),
      segment_ids,
      num_heads=num_heads,
      relations={"qq": 1.0},
      implementation=name,
    )
    return sums["qq"]

  return jax.jit(jax.value_and_grad(loss)).lower(*inputs).compile()


def _temporary_bytes(program: Callable[..., object]) -> int:
  analysis = program.memory_analysis()  # pyrefly: ignore[missing-attribute]
  return analysis.temp_size_in_bytes
