"""The commands that measure."""

import importlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from time_jax.command import Command, config_flag, json_flag, path, workdir_flag


def _bench_relations(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, text in (
    ("batch_size", 4, "Rows."),
    ("seq_len", 512, "Tokens of a row."),
    ("num_heads", 64, "Relation heads R; divides both widths."),
    ("teacher_width", 1024, "Width of the teacher's projection."),
    ("student_width", 384, "Width of the student's projection."),
    ("repeats", 5, "Rounds that count."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)


def _bench_step(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, least, text in (
    ("steps", 20, 1, "Steps that count."),
    ("warmup", 3, 0, "Steps before them, behind the one that compiles."),
  ):
    flags.DEFINE_integer(
      name, default, text, lower_bound=least, flag_values=values
    )
  flags.DEFINE_boolean(
    "real_rows",
    False,
    "Measure the loader as well where rows are synthetic.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "peak_tflops",
    None,
    "Dense peak of one device, for MFU where it is not known.",
    lower_bound=0,
    flag_values=values,
  )


def _bench_compare(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_list(
    "size", ["s"], "Students to measure, of m, s, xs.", flag_values=values
  )
  for name, default, text in (
    ("batch_size", 4, "Rows of a step."),
    ("seq_len", 512, "Tokens of a row."),
    ("repeats", 5, "Rounds that count; each runs every implementation."),
    ("steps", 1, "Steps of each in a round; more where steps are short."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
  for name, text in (
    ("compile", "Measure PyTorch with torch.compile, too."),
    ("cut", "Measure PyTorch with a teacher cut off like ours, too."),
  ):
    flags.DEFINE_boolean(name, False, text, flag_values=values)
  flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Of computation, on both sides.",
    flag_values=values,
  )


def _run_bench_relations(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.relations")
  return module.bench_relations(
    batch_size=args.batch_size,
    seq_len=args.seq_len,
    num_heads=args.num_heads,
    teacher_width=args.teacher_width,
    student_width=args.student_width,
    repeats=args.repeats,
  )


def _run_bench_step(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.step")
  return module.bench_step(
    args.config,
    steps=args.steps,
    warmup=args.warmup,
    real_rows=args.real_rows,
    workdir=path(args.workdir) if args.workdir else None,
    peak_tflops=args.peak_tflops,
    json=path(args.json) if args.json else None,
  )


def _run_bench_compare(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.compare")
  return module.bench_compare(
    sizes=args.size,
    batch_size=args.batch_size,
    seq_len=args.seq_len,
    repeats=args.repeats,
    steps=args.steps,
    compiled=args.compile,
    cut=args.cut,
    dtype=args.dtype,
    json=path(args.json) if args.json else None,
  )


BENCH = {
  "bench relations": Command(
    "Time and memory of the relation loss's implementations.",
    "bench relations --seq_len=256",
    (_bench_relations,),
    (),
    _run_bench_relations,
  ),
  "bench step": Command(
    "Speed and memory of a recipe's training step.",
    "bench step --config=configs/xlmr_random.py:size=s --steps=5",
    (config_flag, workdir_flag, _bench_step, json_flag),
    ("config",),
    _run_bench_step,
  ),
  "bench compare": Command(
    "Our training step and PyTorch's, in turns.",
    "bench compare --size=s,xs --batch_size=4 --compile",
    (_bench_compare, json_flag),
    (),
    _run_bench_compare,
  ),
}
