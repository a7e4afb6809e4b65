"""`bench step`: speed and memory of the training step that `distill` runs."""

import contextlib
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from time_jax.bench.common import by_student, report
from time_jax.bench.common.flags import Step
from time_jax.bench.common.step_runner import StepRunner, Window
from time_jax.config import students
from time_jax.config.distill import check_config
from time_jax.core.display import aligned_table, byte_size, number
from time_jax.core.errors import UserError
from time_jax.data import pipeline
from time_jax.parallel import processes
from time_jax.run import assembly, corpus
from time_jax.step import machine

SCHEMA = "time_jax.bench.step/3"
_REUSED, _LOADER = "one batch, reused", "loader"
# Steps until clocks, caches and allocators have settled. On a CPU few must do,
# as a step of full size takes seconds.
_WARMUP, _WARMUP_CPU = 20, 3


def bench_step(flags: Step) -> int:
  """Prints speed, memory and compilation time of a recipe's training step.

  It is measured with one batch of full rows that is used again and again, and
  then with batches from the loader, if there is text or `real_rows` is set. Of
  several students, each is measured alone as well, see `by_student`.

  Args:
    flags: flags of the command. The step that compiles comes before the
      warm-up steps.

  Returns:
    The exit code, 0.

  Raises:
    UserError: the recipe is wrong, or a file cannot be written.
  """
  config, steps, warmup = flags.config, flags.steps, flags.warmup
  check_config(config)
  report.check_writable(flags.json)
  configs = students.effective(config)
  vocab_size = assembly.check_students(configs).vocab_size
  processes.initialize()
  assembly.make_mesh(config)  # Errors come before text is prepared.
  rows, problem = open_rows(config, flags.workdir, flags.real_rows, vocab_size)
  machine.use_compilation_cache()
  if warmup is None:
    warmup = _WARMUP_CPU if jax.default_backend() == "cpu" else _WARMUP
  json = flags.json if jax.process_index() == 0 else None
  runner = StepRunner.build(configs)
  batch = runner.full_batch()
  result = _describe(runner, flags.peak_tflops) | runner.compile(batch)
  runner.window(itertools.repeat(batch), warmup)
  reused = _rates(runner.window(itertools.repeat(batch), steps), result)
  result["time"] |= reused["time"]
  result |= {"throughput": reused["throughput"], _LOADER: None}
  result |= {"by_student": None}
  if len(configs) > 1:
    temporaries = result["memory"]["program"]["temporaries"]
    result["by_student"] = by_student.measure(runner, batch, steps, temporaries)
  result["memory"] |= report.peak_memory()
  report.write(json, SCHEMA, result)
  if rows:
    with contextlib.closing(runner.loader(rows, warmup + steps)) as batches:
      runner.window(batches, warmup)
      result[_LOADER] = _rates(runner.window(batches, steps), result)
    result["memory"] |= report.peak_memory()
    report.write(json, SCHEMA, result)
  if jax.process_index() == 0:
    print(as_text(result))
    if problem:
      print(f"not measured: {_LOADER}: {problem}")
  return 0


def open_rows(
  config: ConfigDict,
  workdir: pathlib.Path | None,
  real_rows: bool,
  vocab_size: int,
) -> tuple[pipeline.Rows | None, str]:
  """Opens the rows that the loader is measured with.

  Args:
    config: recipe of the run.
    workdir: folder of a run, in which text is prepared.
    real_rows: whether synthetic rows will do, and rows are a must.
    vocab_size: number of rows of the teacher's token table.

  Returns:
    The rows and an empty text; or None and the reason why there are none.
  """
  if config.data.synthetic_rows:
    if not real_rows:
      return None, "synthetic rows; --real_rows measures it all the same."
  elif not (workdir or config.data.folder):
    reason = (
      "text needs a place to be prepared in; give --workdir of a run, or "
      "--config.data.folder."
    )
    if real_rows:
      raise UserError(f"--real_rows: {reason}")
    return None, reason
  folder = workdir or pathlib.Path()
  corpus.keep_limit(config, folder)
  return corpus.open_corpus(config, folder, vocab_size).train, ""


def _describe(runner: StepRunner, peak_tflops: float | None) -> dict[str, Any]:
  """Returns the parts of the result that are known before anything runs."""
  c = runner.config
  shapes = {name: _shape(own) for name, own in runner.configs.items()}
  dtypes = {c.teacher.dtype, *(shape["dtype"] for shape in shapes.values())}
  dtype = "float32" if dtypes == {"float32"} else "bfloat16"
  result = machine.environment(dict(runner.mesh.shape), dtype)
  if peak_tflops:
    result["hardware"] |= {
      "peak_tflops_dense": peak_tflops,
      "peak_source": "--peak_tflops",
    }
  shape = {
    "global_batch": c.train.global_batch_size,
    "seq": c.data.seq_len,
    "teacher": c.teacher.path,
    "layers_run": max(shape["teacher_layer"] for shape in shapes.values()),
    "teacher_dtype": c.teacher.dtype,
    "students": shapes,
    "remat": "attention",  # Of its probabilities; see `models.attention`.
    "accum": c.train.accumulation,
    "packing": c.data.packing,
    "parallel": c.train.parallel,
  }
  return result | {"shape": shape, "energy": None}  # Energy is not measured.


def _shape(config: ConfigDict) -> dict[str, Any]:
  """Returns what a student's own part of a step depends on."""
  return config.student.to_dict() | {
    "dtype": config.train.dtype,
    "teacher_layer": config.teacher.layer,
    "A_r": config.relations.num_heads,
    "implementation": config.relations.implementation,
  }


def _rates(window: Window, result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns times and rates of steps with one kind of input."""
  shape, hardware = result["shape"], result["hardware"]
  times = report.spread(window.seconds)
  total, devices = sum(window.seconds), hardware["n_devices"]
  rows = shape["global_batch"] * len(window.seconds)
  tokens = rows * shape["seq"] / total
  per_device = result["flops"]["total"] / times["mean"] / devices / 1e12
  peak = hardware["peak_tflops_dense"]
  return {
    "time": {"step_s": times, "input_wait_frac": window.waited / total},
    "throughput": {
      "sequences_s": rows / total,
      "tokens_s": tokens,
      "real_tokens_s": window.real_tokens / total,
      "tokens_s_per_device": tokens / devices,
      "model_tflops_s_per_device": per_device,
      "mfu": per_device / peak if peak else None,
    },
  }


def as_text(result: Mapping[str, Any]) -> str:
  """Returns the result as people read it."""
  hardware, shape = result["hardware"], result["shape"]
  compiled, memory = result["time"], result["memory"]
  peak, device = hardware["peak_tflops_dense"], memory["device_peak"]
  tera = {
    name: f"{count / 1e12:.3f}" for name, count in result["flops"].items()
  }
  columns = {_REUSED: _column(result)}
  if result[_LOADER]:
    columns[_LOADER] = _column(result[_LOADER])
  labels = list(columns[_REUSED])
  cells = [["", *labels], *([k, *c.values()] for k, c in columns.items())]
  lines = [
    f"{hardware['n_devices']} x {hardware['kind']}, "
    f"{hardware['n_processes']} process(es), mesh {hardware['mesh']}, jax "
    f"{result['software']['jax']}, {result['date'][:10]}",
    f"{shape['global_batch']} x {shape['seq']} tokens; teacher "
    f"{shape['teacher']!r} up to layer {shape['layers_run']} in "
    f"{shape['teacher_dtype']}, {_students(shape['students'])}",
    f"compiled in {compiled['compile_s']:.1f} s ({compiled['cache']} cache), "
    f"first step done after {compiled['first_step_s']:.1f} s",
    f"memory: program {byte_size(memory['program']['total'])} per device, "
    f"of that temporaries {byte_size(memory['program']['temporaries'])}; "
    f"device peak {byte_size(device) if device else 'not reported'}; host "
    f"peak {byte_size(memory['host_peak'])}",
    f"model TFLOP per step: {tera['total']} (teacher {tera['teacher']}, "
    f"student {tera['student']}, relations {tera['relations']})",
    f"MFU is of {peak:g} TFLOP/s, dense, per device ({hardware['peak_source']})"
    if peak
    else "MFU: the peak of this device is not known; give --peak_tflops",
    aligned_table(list(zip(*cells, strict=True)), "<>"),
  ]
  if result["by_student"]:
    lines.append(by_student.as_text(result["by_student"]))
  return "\n".join(lines)


def _students(shapes: Mapping[str, Mapping[str, Any]]) -> str:
  texts = [
    f"{name} {own['num_layers']} x {own['hidden_size']} in {own['dtype']}"
    for name, own in shapes.items()
  ]
  return ", ".join(texts)


def _column(measured: Mapping[str, Any]) -> dict[str, str]:
  """Returns label -> cell for one kind of input."""
  seconds, rates = measured["time"]["step_s"], measured["throughput"]
  return {
    **{
      f"step ms, {name}": f"{seconds[name] * 1e3:,.1f}"
      for name in ("mean", "p50", "p90", "p99", "min", "max")
    },
    "steps": str(seconds["n"]),
    "tokens/s": f"{rates['tokens_s']:,.1f}",
    "real tokens/s": f"{rates['real_tokens_s']:,.1f}",
    "tokens/s per device": f"{rates['tokens_s_per_device']:,.1f}",
    "model TFLOP/s per device": f"{rates['model_tflops_s_per_device']:.4g}",
    "MFU": number(rates["mfu"], ".1%"),
    "waiting for input": f"{measured['time']['input_wait_frac']:.1%}",
  }
