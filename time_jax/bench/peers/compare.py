"""`bench compare`: our training step and PyTorch's, in turns."""

import contextlib
import importlib.util
import statistics
from collections.abc import Iterator, Mapping
from itertools import starmap
from typing import Any

from ml_collections import ConfigDict

from time_jax.bench.common import report
from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.flags import Compare
from time_jax.bench.peers.timed_steps import JaxStep, Needs, TorchStep
from time_jax.catalog.teachers import XLMR_LARGE, XLMR_LARGE_LAYER
from time_jax.config.distill import STUDENT_SIZES, check_config, default_config
from time_jax.core.display import aligned_table, number, with_header
from time_jax.core.errors import RunError, UserError
from time_jax.run import assembly

SCHEMA = "time_jax.bench.compare/1"
OURS = "time_jax"
EAGER = "PyTorch"
# Implementation -> of each round, seconds of a step and seconds of all cores.
Rounds = dict[str, list[tuple[float, float]]]


def bench_compare(flags: Compare) -> int:
  """Prints how fast our step and PyTorch's are, for every size of student.

  Args:
    flags: flags of the command.

  Returns:
    The exit code, 0.

  Raises:
    UserError: PyTorch is missing, a size is unknown, or the file cannot be
      written.
  """
  if unknown := [s for s in flags.size if s not in STUDENT_SIZES]:
    raise UserError(
      f"--size={','.join(unknown)} is unknown; known: "
      f"{', '.join(STUDENT_SIZES)}."
    )
  if not importlib.util.find_spec("torch"):
    raise UserError(
      "bench compare needs PyTorch; pip install torch (its CPU build: "
      "--index-url https://download.pytorch.org/whl/cpu)."
    )
  report.check_writable(flags.json)
  variants = torch_variants(flags.compile, flags.cut)
  results: dict[str, Any] = {}
  for size in flags.size:
    config = make_config(size, flags.batch_size, flags.seq_len, flags.dtype)
    for result in compare(config, variants, flags.repeats, flags.steps):
      results[size] = {"size": size, **result}
      report.write(flags.json, SCHEMA, {"results": list(results.values())})
    print(as_text(size, results[size]), flush=True)
  return 0


def make_config(
  size: str, batch_size: int, seq_len: int, dtype: str
) -> ConfigDict:
  """Returns the paper's recipe with a random teacher and another batch."""
  config = default_config()
  config.teacher.path = assembly.RANDOM
  config.teacher.layer = XLMR_LARGE_LAYER
  config.teacher.dtype = config.train.dtype = dtype
  config.teacher.architecture = ConfigDict(XLMR_LARGE)
  config.student.update(STUDENT_SIZES[size])
  config.data.seq_len = seq_len
  config.data.synthetic_rows = batch_size
  config.train.global_batch_size = batch_size
  config.eval.global_batch_size = batch_size
  check_config(config)
  return config


def torch_variants(compiled: bool, cut: bool) -> dict[str, dict[str, bool]]:
  """Returns PyTorch's rows of the table -> arguments of `Baseline.step`."""
  rows = {
    EAGER: {},
    f"{EAGER}, torch.compile": {"compiled": True},
    f"{EAGER}, teacher cut": {"cut": True},
    f"{EAGER}, both": {"compiled": True, "cut": True},
  }
  unwanted = {"compiled": not compiled, "cut": not cut}
  return {
    name: row
    for name, row in rows.items()
    if not any(unwanted[option] for option in row)
  }


def compare(
  config: ConfigDict,
  variants: Mapping[str, Mapping[str, bool]],
  repeats: int,
  steps: int,
) -> Iterator[dict[str, Any]]:
  """Runs all implementations in turns.

  Every round runs each once, and the next one in the opposite order, so that
  a machine that changes its speed changes it for all.

  Args:
    config: recipe from `make_config`.
    variants: rows of `torch_variants`.
    repeats: number of rounds that count.
    steps: steps of each implementation in a round.

  Yields:
    The result for one size, as JSON holds it: after every round, and at last
    with the parts of our step.
  """
  with contextlib.ExitStack() as stack:
    recipe = config.to_json()
    ours = stack.enter_context(ChildProcess(JaxStep, recipe))
    torch = stack.enter_context(ChildProcess(TorchStep, recipe, dict(variants)))
    processes = {OURS: ours} | dict.fromkeys(variants, torch)
    needs, problems = {}, {}
    for name in list(processes):
      try:
        needs[name] = processes[name].call("warm_up", name)
      except RunError as error:
        if name in (OURS, EAGER):
          raise
        problems[name] = str(error)
        del processes[name]
    result = ours.call("describe")
    result["software"] |= torch.call("describe")
    result |= {"shape": _shape(config), "not_measured": problems}
    rounds: Rounds = {name: [] for name in processes}
    for i in range(repeats):
      for name in list(processes)[:: 1 if i % 2 else -1]:
        taken, worked = processes[name].call("run", name, steps)
        rounds[name].append((taken / steps, worked / steps))
      result |= {"implementations": _rows(result, rounds, needs)}
      yield dict(result)
    parts = ours.call("parts", min(repeats, 3))
    median = result["implementations"][OURS]["step_s"]["p50"]
    yield result | {"parts_s": {**parts, "rest": median - sum(parts.values())}}


def _rows(
  result: Mapping[str, Any], rounds: Rounds, needs: Mapping[str, Needs]
) -> dict[str, Any]:
  """Returns implementation -> its times and rates.

  Model FLOPs are what the method needs, the same for all, so MFU too says only
  how long a step takes.
  """
  shape, hardware = result["shape"], result["hardware"]
  tokens = shape["global_batch"] * shape["seq"]
  peak = hardware["peak_tflops_dense"]
  work = sum(result["flops"].values()) / hardware["n_devices"] / 1e12
  times = {name: [taken for taken, _ in rounds[name]] for name in rounds}
  ours = statistics.median(times[OURS])
  rows: dict[str, Any] = {}
  for name, seconds in times.items():
    ratios = [b / a for a, b in zip(times[OURS], seconds, strict=True)]
    median = statistics.median(seconds)
    rows[name] = {
      "step_s": report.spread(seconds),
      "rounds_s": seconds,
      "cores_s": statistics.median(worked for _, worked in rounds[name]),
      "tokens_s": tokens / median,
      "model_tflops_s": work / median,
      "mfu": work / median / peak if peak else None,
      **needs[name],
      "ours_over_theirs": median / ours,
      "ours_over_theirs_range": [min(ratios), max(ratios)],
    }
  return rows


def _shape(config: ConfigDict) -> dict[str, Any]:
  architecture = config.teacher.architecture
  return {
    "global_batch": config.train.global_batch_size,
    "seq": config.data.seq_len,
    "dtype": config.train.dtype,
    "teacher": f"{architecture.num_hidden_layers} x {architecture.hidden_size}",
    "layer": config.teacher.layer,
    "student": config.student.to_dict(),
    "A_r": config.relations.num_heads,
  }


def _row(name: str, row: Mapping[str, Any]) -> dict[str, str]:
  return {
    "implementation": name,
    "s/step": f"{row['step_s']['p50']:.3f}",
    "best": f"{row['step_s']['min']:.3f}",
    "core s": f"{row['cores_s']:.3f}",
    "tokens/s": f"{row['tokens_s']:,.1f}",
    "TFLOP/s": f"{row['model_tflops_s']:.3g}",
    "MFU": number(row["mfu"], ".1%"),
    "peak GB": f"{row['peak_bytes'] / 1e9:.2f}",
    "ours is": f"{row['ours_over_theirs']:.2f}x",
    "range": "{:.2f} - {:.2f}".format(*row["ours_over_theirs_range"]),
  }


def as_text(size: str, result: Mapping[str, Any]) -> str:
  """Returns the tables of one size of student."""
  hardware, software = result["hardware"], result["software"]
  shape, rows = result["shape"], result["implementations"]
  times = rows[OURS]["step_s"]
  lines = [
    f"size {size}: {shape['global_batch']} x {shape['seq']} tokens, "
    f"{shape['dtype']}; teacher {shape['teacher']}, layer "
    f"{shape['layer']}, random weights",
    f"{hardware['n_devices']} x {hardware['kind']}, {hardware['host_cores']} "
    f"cores, jax {software['jax']}, torch {software['torch']}, transformers "
    f"{software['transformers']}, {result['date'][:10]}; median of "
    f"{times['n']} alternating rounds",
    aligned_table(with_header(list(starmap(_row, rows.items()))), "<>"),
  ]
  for name, row in rows.items():
    if row["parts"] > 1:
      lines.append(
        f"{name}: a batch in {row['parts']} parts; it has no memory for the "
        "whole"
      )
  for name, problem in result["not_measured"].items():
    lines.append(f"not measured: {name}: {problem}")
  if peak := hardware["peak_tflops_dense"]:
    lines.append(
      f"MFU is of {peak:g} TFLOP/s, dense ({hardware['peak_source']}), and "
      "counts what the method needs"
    )
  products = software["torch_float32_products"]
  if shape["dtype"] == "float32" != products:
    lines.append(
      f"float32 matrices are multiplied in {products} on both sides, as JAX "
      "does by default"
    )
  parts = [("part of our step", "s", "share")]
  parts += [
    (name, f"{seconds:.3f}", f"{seconds / times['p50']:.1%}")
    for name, seconds in result["parts_s"].items()
  ]
  lines += [aligned_table(parts, "<>"), ""]
  return "\n".join(lines)
