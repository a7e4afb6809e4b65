"""Our step and PyTorch's in turns: tokens per second and their ratio."""

import contextlib
import importlib.util
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from time_jax.bench.common import report
from time_jax.bench.common.worker import Worker
from time_jax.bench.peers.rivals import Needs, Ours, Theirs, make_config
from time_jax.config.distill import STUDENT_SIZES
from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file

SCHEMA = "time_jax.bench.compare/1"
OURS = "time_jax"
EAGER = "PyTorch"
# Per step, of every round: seconds taken, seconds that cores worked.
Rounds = dict[str, list[tuple[float, float]]]


def bench_compare(
  *,
  sizes: Sequence[str],
  batch_size: int,
  seq_len: int,
  repeats: int,
  steps: int,
  compiled: bool,
  cut: bool,
  dtype: str,
  json: pathlib.Path | None,
) -> int:
  """Prints, for every size of student, how fast ours and PyTorch's steps are.

  Args:
    sizes: keys of `STUDENT_SIZES`.
    batch_size: rows of a step.
    seq_len: tokens of a row, all real.
    repeats: rounds that count; one before them does not.
    steps: of each implementation, in each round.
    compiled: whether torch.compile takes part, too.
    cut: whether PyTorch with a teacher that ends at the distilled layer does.
    dtype: of computation, on both sides.
    json: where the numbers go, too.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no PyTorch, an unknown size, a file that cannot be written.
  """
  if unknown := [size for size in sizes if size not in STUDENT_SIZES]:
    raise UserError(
      f"--size={','.join(unknown)} is unknown; known: "
      f"{', '.join(STUDENT_SIZES)}."
    )
  if not importlib.util.find_spec("torch"):
    raise UserError(
      "bench compare needs PyTorch; pip install torch (its CPU build: "
      "--index-url https://download.pytorch.org/whl/cpu)."
    )
  if json:
    report.check_writable(json)
  results: dict[str, Any] = {}
  for size in sizes:
    config = make_config(size, batch_size, seq_len, dtype)
    for result in compare(config, theirs(compiled, cut), repeats, steps):
      results[size] = {"size": size, **result}
      if json:
        content = {"schema": SCHEMA, "results": list(results.values())}
        atomic_file.write_json(json, content)
    print(as_text(size, results[size]), flush=True)
  return 0


def theirs(compiled: bool, cut: bool) -> dict[str, dict[str, bool]]:
  """The rows of PyTorch in the table -> arguments of `Baseline.step`."""
  rows = {EAGER: {}}
  if compiled:
    rows[f"{EAGER}, torch.compile"] = {"compiled": True}
  if cut:
    rows[f"{EAGER}, teacher cut"] = {"cut": True}
  if compiled and cut:
    rows[f"{EAGER}, both"] = {"compiled": True, "cut": True}
  return rows


def compare(
  config: ConfigDict,
  rivals: Mapping[str, Mapping[str, bool]],
  repeats: int,
  steps: int,
) -> Iterator[dict[str, Any]]:
  """Runs all implementations in turns.

  Every round runs each once, and the next one in the opposite order, so that
  a machine that changes its speed changes it for all.

  Args:
    config: from `make_config`.
    rivals: from `theirs`.
    repeats: rounds that count.
    steps: of each implementation, in each round.

  Yields:
    The report of one size, as JSON holds it: after every round, and at last
    with the parts of our step.
  """
  with contextlib.ExitStack() as stack:
    start = stack.enter_context
    ours = start(contextlib.closing(Worker(Ours, config.to_json())))
    them = start(
      contextlib.closing(Worker(Theirs, config.to_json(), dict(rivals)))
    )
    runners = {OURS: ours} | dict.fromkeys(rivals, them)
    needs, problems = {}, {}
    for name in list(runners):
      try:
        needs[name] = runners[name].call("warm_up", name)
      except RunError as error:
        if name in (OURS, EAGER):
          raise
        problems[name] = str(error)
        del runners[name]
    about = ours.call("describe")
    about["software"] |= them.call("describe")
    about |= {"shape": _shape(config), "not_measured": problems}
    rounds: Rounds = {name: [] for name in runners}
    for i in range(repeats):
      for name in list(runners)[:: 1 if i % 2 else -1]:
        taken, worked = runners[name].call("run", name, steps)
        rounds[name].append((taken / steps, worked / steps))
      about |= {"implementations": _rows(about, rounds, needs)}
      yield dict(about)
    parts = ours.call("parts", min(repeats, 3))
    rest = about["implementations"][OURS]["step_s"]["p50"] - sum(parts.values())
    yield about | {"parts_s": {**parts, "rest": rest}}


def _rows(
  about: Mapping[str, Any], rounds: Rounds, needs: Mapping[str, Needs]
) -> dict[str, Any]:
  """Implementation -> its times and rates.

  Model FLOPs are what the method needs, the same for all; so MFU, too, tells
  only how long a step takes.
  """
  shape, hardware = about["shape"], about["hardware"]
  tokens = shape["global_batch"] * shape["seq"]
  peak = hardware["peak_tflops_dense"]
  work = sum(about["flops"].values()) / hardware["n_devices"] / 1e12
  times = {name: [taken for taken, _ in rounds[name]] for name in rounds}
  mine = statistics.median(times[OURS])
  rows: dict[str, Any] = {}
  for name, seconds in times.items():
    pairs = [b / a for a, b in zip(times[OURS], seconds, strict=True)]
    median = statistics.median(seconds)
    rows[name] = {
      "step_s": report.spread(seconds),
      "rounds_s": seconds,
      "cores_s": statistics.median(worked for _, worked in rounds[name]),
      "tokens_s": tokens / median,
      "model_tflops_s": work / median,
      "mfu": work / median / peak if peak else None,
      **needs[name],
      "ours_over_theirs": median / mine,
      "ours_over_theirs_range": [min(pairs), max(pairs)],
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


def as_text(size: str, result: Mapping[str, Any]) -> str:
  """The tables of one size."""
  hardware, software = result["hardware"], result["software"]
  shape = result["shape"]
  first = result["implementations"][OURS]["step_s"]
  lines = [
    f"size {size}: {shape['global_batch']} x {shape['seq']} tokens, "
    f"{shape['dtype']}; teacher {shape['teacher']}, layer "
    f"{shape['layer']}, random weights",
    f"{hardware['n_devices']} x {hardware['kind']}, {hardware['host_cores']} "
    f"cores, jax {software['jax']}, torch {software['torch']}, transformers "
    f"{software['transformers']}, {result['date'][:10]}; median of "
    f"{first['n']} alternating rounds",
  ]
  lines.append(_table(result["implementations"]))
  lines += [
    f"{name}: a batch in {row['parts']} parts; it has no memory for the whole"
    for name, row in result["implementations"].items()
    if row["parts"] > 1
  ]
  lines += [
    f"not measured: {n}: {p}" for n, p in result["not_measured"].items()
  ]
  peak = hardware["peak_tflops_dense"]
  if peak:
    lines.append(
      f"MFU is of {peak:g} TFLOP/s, dense ({hardware['peak_source']}), and "
      "counts what the method needs"
    )
  if shape["dtype"] == "float32" != software["torch_float32_products"]:
    lines.append(
      f"float32 matrices are multiplied in {software['torch_float32_products']}"
      " on both sides, as JAX does by default"
    )
  whole = first["p50"]
  lines.append(
    report.table(
      ("part of our step", "s", "share"),
      [
        (name, f"{seconds:.3f}", f"{seconds / whole:.1%}")
        for name, seconds in result["parts_s"].items()
      ],
    )
  )
  return "\n".join(lines) + "\n"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
  header = (
    "implementation",
    "s/step",
    "best",
    "core s",
    "tokens/s",
    "TFLOP/s",
    "MFU",
    "peak GB",
    "ours is",
    "range",
  )
  return report.table(
    header,
    [
      (
        name,
        f"{row['step_s']['p50']:.3f}",
        f"{row['step_s']['min']:.3f}",
        f"{row['cores_s']:.3f}",
        f"{row['tokens_s']:,.1f}",
        f"{row['model_tflops_s']:.3g}",
        f"{row['mfu']:.1%}" if row["mfu"] else "-",
        f"{row['peak_bytes'] / 1e9:.2f}",
        f"{row['ours_over_theirs']:.2f}x",
        "{:.2f} - {:.2f}".format(*row["ours_over_theirs_range"]),
      )
      for name, row in rows.items()
    ],
  )
