"""Speed and memory of the training step, as `distill` runs it."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from time_jax.bench.common import report
from time_jax.bench.common.run import Run, Window
from time_jax.config.distill import check_config
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.data import pipeline
from time_jax.parallel import processes
from time_jax.run import assembly, corpus, loop
from time_jax.step import machine

SCHEMA = "time_jax.bench.step/2"
_REUSED, _LOADER = "one batch, reused", "loader"
# Steps until clocks, caches and allocators are settled. A CPU's are few, for
# there a step of full size takes seconds.
_WARMUP, _WARMUP_CPU = 20, 3


def bench_step(
  config: ConfigDict,
  *,
  steps: int,
  warmup: int | None,
  real_rows: bool,
  workdir: pathlib.Path | None,
  peak_tflops: float | None,
  json: pathlib.Path | None,
) -> int:
  """Prints speed, memory and compilation of a recipe's step.

  First with one batch of full rows that is used again and again, then, where
  there is text or it is asked for, with batches from the loader.

  Args:
    config: the recipe.
    steps: that count.
    warmup: steps before them, which do not; the one that compiles is extra.
      None: 20, and 3 on a CPU.
    real_rows: whether the loader is measured with synthetic rows, too.
    workdir: of a run; its prepared text is measured. None: no text is.
    peak_tflops: dense, of one device; None: from `flops.PEAKS`.
    json: where the numbers go, too.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a bad recipe, or a file that cannot be written.
  """
  check_config(config)
  if json:
    report.check_writable(json)
  vocab_size = assembly.teacher_config(config).vocab_size
  processes.initialize()
  assembly.make_mesh(config)  # What is wrong is told before text is prepared.
  rows, problem = open_rows(config, workdir, real_rows, vocab_size)
  loop.use_compilation_cache()
  if warmup is None:
    warmup = _WARMUP_CPU if jax.default_backend() == "cpu" else _WARMUP
  run = Run.build(config)
  batch = run.full_batch()
  about = _describe(run, peak_tflops) | run.compile(batch)
  run.window(itertools.repeat(batch), warmup)
  reused = _rates(run.window(itertools.repeat(batch), steps), about)
  about["time"] |= reused["time"]
  about |= {"throughput": reused["throughput"], _LOADER: None}
  about["memory"] |= report.peak_memory()
  _keep(json, about)
  if rows:
    with contextlib.closing(run.loader(rows, warmup + steps)) as batches:
      run.window(batches, warmup)
      about[_LOADER] = _rates(run.window(batches, steps), about)
    about["memory"] |= report.peak_memory()
    _keep(json, about)
  if jax.process_index() == 0:
    print(as_text(about))
    if problem:
      print(f"not measured: {_LOADER}: {problem}")
  return 0


def _keep(json: pathlib.Path | None, about: dict[str, Any]) -> None:
  if json and jax.process_index() == 0:
    atomic_file.write_json(json, about)


def open_rows(
  config: ConfigDict,
  workdir: pathlib.Path | None,
  real_rows: bool,
  vocab_size: int,
) -> tuple[pipeline.Rows | None, str]:
  """Rows for the loader; or none, and why.

  Args:
    config: the recipe.
    workdir: of a run, where text is prepared.
    real_rows: whether to take synthetic rows, too, and to insist.
    vocab_size: rows of the teacher's token table.
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


def _describe(run: Run, peak_tflops: float | None) -> dict[str, Any]:
  """The parts of the report that are known before anything runs."""
  c = run.config
  full = (c.teacher.dtype, c.train.dtype) == ("float32", "float32")
  dtype = "float32" if full else "bfloat16"
  about = machine.environment(dict(run.mesh.shape), dtype)
  if peak_tflops:
    about["hardware"] |= {
      "peak_tflops_dense": peak_tflops,
      "peak_source": "--peak_tflops",
    }
  return (
    {"schema": SCHEMA}
    | about
    | {
      "shape": {
        "global_batch": c.train.global_batch_size,
        "seq": c.data.seq_len,
        "teacher": c.teacher.path,
        "layers_run": c.teacher.layer,
        "teacher_dtype": c.teacher.dtype,
        "student": c.student.to_dict(),
        "student_dtype": c.train.dtype,
        "A_r": c.relations.num_heads,
        "implementation": c.relations.implementation,
        "remat": "attention",  # Its probabilities; see `models.attention`.
        "accum": c.train.accumulation,
        "packing": c.data.packing,
        "parallel": c.train.parallel,
      },
      "energy": None,  # Not measured.
    }
  )


def _rates(window: Window, about: Mapping[str, Any]) -> dict[str, Any]:
  """Times and rates of one kind of input."""
  shape, hardware = about["shape"], about["hardware"]
  times = report.spread(window.seconds)
  whole, devices = sum(window.seconds), hardware["n_devices"]
  rows = shape["global_batch"] * len(window.seconds)
  per_device = about["flops"]["total"] / times["mean"] / devices / 1e12
  peak = hardware["peak_tflops_dense"]
  return {
    "time": {"step_s": times, "input_wait_frac": window.waited / whole},
    "throughput": {
      "sequences_s": rows / whole,
      "tokens_s": rows * shape["seq"] / whole,
      "real_tokens_s": window.real_tokens / whole,
      "tokens_s_per_device": rows * shape["seq"] / whole / devices,
      "model_tflops_s_per_device": per_device,
      "mfu": per_device / peak if peak else None,
    },
  }


def as_text(about: Mapping[str, Any]) -> str:
  """The report, readable."""
  hardware, shape = about["hardware"], about["shape"]
  compiled, memory = about["time"], about["memory"]
  peak = hardware["peak_tflops_dense"]
  mfu = (
    f"MFU is of {peak:g} TFLOP/s, dense, per device ({hardware['peak_source']})"
    if peak
    else "MFU: the peak of this device is not known; give --peak_tflops"
  )
  device = memory["device_peak"]
  counted = {k: v / 1e12 for k, v in about["flops"].items()}
  inputs = {_REUSED: about}
  if about[_LOADER]:
    inputs[_LOADER] = about[_LOADER]
  lines = [
    f"{hardware['n_devices']} x {hardware['kind']}, "
    f"{hardware['n_processes']} process(es), mesh {hardware['mesh']}, jax "
    f"{about['software']['jax']}, {about['date'][:10]}",
    f"{shape['global_batch']} x {shape['seq']} tokens; teacher "
    f"{shape['teacher']!r} up to layer {shape['layers_run']} in "
    f"{shape['teacher_dtype']}, student {shape['student']['num_layers']} x "
    f"{shape['student']['hidden_size']} in {shape['student_dtype']}",
    f"compiled in {compiled['compile_s']:.1f} s ({compiled['cache']} cache), "
    f"first step done after {compiled['first_step_s']:.1f} s",
    f"memory: program {_gigabytes(memory['program']['total'])} per device, "
    f"of that temporaries {_gigabytes(memory['program']['temporaries'])}; "
    f"device peak {_gigabytes(device) if device else 'not reported'}; host "
    f"peak {_gigabytes(memory['host_peak'])}",
    f"model TFLOP per step: {counted['total']:.3f} (teacher "
    f"{counted['teacher']:.3f}, student {counted['student']:.3f}, relations "
    f"{counted['relations']:.3f})",
    mfu,
    report.table(("", *inputs), _cells(inputs.values())),
  ]
  return "\n".join(lines)


def _gigabytes(count: int) -> str:
  return f"{count / 1e9:.2f} GB"


def _cells(inputs: Iterable[Any]) -> list[Sequence[str]]:
  found = list(inputs)
  times = [one["time"]["step_s"] for one in found]
  rates = [one["throughput"] for one in found]
  rows: list[Sequence[str]] = [
    (f"step ms, {name}", *(f"{t[name] * 1e3:,.1f}" for t in times))
    for name in ("mean", "p50", "p90", "p99", "min", "max")
  ]
  rows.append(("steps", *(str(t["n"]) for t in times)))
  for label, name in (
    ("tokens/s", "tokens_s"),
    ("real tokens/s", "real_tokens_s"),
    ("tokens/s per device", "tokens_s_per_device"),
  ):
    rows.append((label, *(f"{rate[name]:,.1f}" for rate in rates)))
  rows.append(
    (
      "model TFLOP/s per device",
      *(f"{rate['model_tflops_s_per_device']:.4g}" for rate in rates),
    )
  )
  rows.append(("MFU", *(f"{r['mfu']:.1%}" if r["mfu"] else "-" for r in rates)))
  waits = [one["time"]["input_wait_frac"] for one in found]
  rows.append(("waiting for input", *(f"{wait:.1%}" for wait in waits)))
  return rows
