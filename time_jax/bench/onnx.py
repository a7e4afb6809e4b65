"""Latency of an exported student: JAX, PyTorch, onnxruntime, that in int8."""

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from time_jax import machine, onnx_files, sharding
from time_jax.arrays import make_batch
from time_jax.bench import report
from time_jax.errors import UserError
from time_jax.hf import load, torch_encoder
from time_jax.models import unrolled

SCHEMA = "time_jax.bench.onnx/1"
_WARMUP = 3


def bench_onnx(
  folder: pathlib.Path,
  *,
  batch_sizes: Sequence[int],
  seq_len: int,
  repeats: int,
  json: pathlib.Path | None,
) -> int:
  """Measures a forward pass on random tokens, in turns; prints a table.

  Each library uses as many threads as it likes.

  Args:
    folder: an export with ONNX files.
    batch_sizes: rows of the batches.
    seq_len: tokens of a row.
    repeats: rounds that count.
    json: file for the numbers, or None.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no ONNX files there, or rows longer than the position table.
  """
  if json:
    report.check_writable(json)
  shape = load.read_config(folder)[1]
  if seq_len > shape.max_positions:
    raise UserError(
      f"--seq_len={seq_len} is longer than the {shape.max_positions} positions "
      f"of {folder}."
    )
  rivals = _rivals(folder)
  random = np.random.default_rng(0)
  rows, found = [], {}
  for size in batch_sizes:
    tokens = random.integers(shape.vocab_size, size=(size, seq_len))
    seconds = _measure(rivals, tokens, repeats)
    for name, times in seconds.items():
      spread = report.spread(times)
      found[f"{name}, {size} x {seq_len}"] = spread
      numbers = (spread["p50"] * 1e3, spread["p90"] * 1e3, size / spread["p50"])
      rows.append((name, str(size), *(f"{x:,.1f}" for x in numbers)))
  head = ("implementation", "rows", "median ms", "p90 ms", "rows/s")
  print(report.table(head, rows))
  if json:
    content = {"schema": SCHEMA} | machine.environment({"data": 1}, "float32")
    report.write_json(json, content | {"seconds": found})
    print(f"Written to {json}.")
  return 0


def _rivals(folder: pathlib.Path) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for name in (onnx_files.PLAIN, onnx_files.INT8):
    path = folder / onnx_files.FOLDER / name
    if not path.exists():
      raise UserError(f"{path} is missing; run `time_jax export --onnx` first.")
    found[name] = onnx_files.load_onnx(path)
  found["JAX"] = _load_jax(folder)
  if torch_encoder.installed():
    found["PyTorch"] = torch_encoder.load_torch(
      folder, strict=False, every_layer=False
    )
  return found


def _load_jax(folder: pathlib.Path) -> onnx_files.Run:
  encoder, params = load.load_encoder(
    folder, dtype=np.float32, mesh=sharding.make_mesh()
  )

  encode = jax.jit(functools.partial(unrolled.last_state, encoder))
  apart = unrolled.unstack(params)
  return lambda tokens, mask: np.asarray(
    encode(apart, make_batch(tokens, mask))
  )


def _measure(
  rivals: dict[str, Any], tokens: np.ndarray, repeats: int
) -> dict[str, list[float]]:
  seconds: dict[str, list[float]] = {name: [] for name in rivals}
  mask = np.ones_like(tokens)
  for _ in range(_WARMUP + repeats):
    for name, run in rivals.items():
      start = time.perf_counter()
      run(tokens, mask)
      seconds[name].append(time.perf_counter() - start)
  return {name: times[_WARMUP:] for name, times in seconds.items()}
