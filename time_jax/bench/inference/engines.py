"""What runs an encoder: JAX, PyTorch, onnxruntime, each in its own process.

onnxruntime takes part twice, the second time with weights in 8 bits.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from time_jax.bench.inference.energy import make_meter
from time_jax.bench.inference.sentences import Rows
from time_jax.bench.inference.subjects import Subject
from time_jax.core.arrays import make_batch
from time_jax.hf import load, torch_encoder
from time_jax.models import stepwise
from time_jax.parallel import sharding
from time_jax.release import onnx_files

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Engine:
  """Encoders in one library, with as many threads as it likes."""

  def __init__(self, name: str, subjects: Sequence[Subject]) -> None:
    """Loads them.

    Args:
      name: a key of `ENGINES`.
      subjects: to load.
    """
    self._runs = {s.name: ENGINES[name](s) for s in subjects}
    # The others are here on the CPU alone.
    self.platform = jax.default_backend() if name == "jax" else "cpu"
    self._meter = make_meter(self.platform)

  def last_state(self, subject: str, batch: Rows) -> np.ndarray:
    """What an encoder hands on, (B, T, D)."""
    return self._runs[subject](*batch)

  def seconds(self, subject: str, batches: Sequence[Rows]) -> list[float]:
    """Of a call with each batch, from host arrays to host arrays."""
    run, found = self._runs[subject], []
    for batch in batches:
      start = time.perf_counter()
      run(*batch)
      found.append(time.perf_counter() - start)
    return found

  def energy(
    self, subject: str, batches: Sequence[Rows], at_least: float
  ) -> dict[str, Any]:
    """Joules of going through the batches, by a counter of the device.

    Args:
      subject: name of the encoder.
      batches: again and again.
      at_least: seconds; a counter moves in steps.

    Returns:
      "platform", "chips", "method", and where something counts "joules" and
      "seconds" of once through all batches.
    """
    about = {
      "platform": self.platform,
      "chips": 1,
      "method": self._meter.method,
    }
    if self._meter.start is None:
      return about
    joules, start, times = self._meter.start(), time.perf_counter(), 0
    while time.perf_counter() - start < at_least:
      self.seconds(subject, batches)
      times += 1
    taken = time.perf_counter() - start
    return about | {"joules": joules() / times, "seconds": taken / times}


def _load_jax(subject: Subject) -> Run:
  # One device, whose energy is counted.
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  encoder, params = load.load_encoder(
    subject.folder, dtype=np.float32, mesh=mesh
  )
  encode = jax.jit(functools.partial(stepwise.last_state, encoder))
  apart = stepwise.unstack(params)
  # For the life of the process: entering it takes time at every call.
  contextlib.ExitStack().enter_context(sharding.use_mesh(mesh))
  return lambda tokens, mask: np.asarray(
    encode(apart, make_batch(tokens, mask))
  )


def _load_torch(subject: Subject) -> Run:
  run = torch_encoder.load_torch(
    subject.folder, strict=False, every_layer=False
  )
  return lambda tokens, mask: run(tokens, mask)[-1]


def _load_onnx(subject: Subject) -> Run:
  assert subject.onnx, subject
  return onnx_files.load_onnx(subject.onnx)


def _load_int8(subject: Subject) -> Run:
  assert subject.onnx, subject
  path = subject.onnx.with_suffix(".int8")
  large = onnx_files.size_of(subject.onnx) > subject.onnx.stat().st_size
  onnx_files.write_int8(subject.onnx, path, large=large)
  return onnx_files.load_onnx(path)


INT8 = "onnxruntime-int8"
ENGINES: dict[str, Callable[[Subject], Run]] = {
  "jax": _load_jax,
  "torch": _load_torch,
  "onnxruntime": _load_onnx,
  INT8: _load_int8,
}
# What they read, for those whose models are graphs.
GRAPHS = {"onnxruntime": ".onnx", INT8: ".int8"}


def size_of(engine: str, subject: Subject) -> int:
  """Bytes of the file that an engine has read."""
  if engine in GRAPHS:
    assert subject.onnx, subject
    return onnx_files.size_of(subject.onnx.with_suffix(GRAPHS[engine]))
  return sum(f.stat().st_size for f in subject.folder.glob("*.safetensors"))
