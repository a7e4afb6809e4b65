"""The training steps that `bench compare` times, each in a child process."""

import importlib
import itertools
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from time_jax.bench.common import breakdown, host_memory, report
from time_jax.bench.common.step_runner import StepRunner
from time_jax.data.pipeline import SyntheticRows
from time_jax.parallel import sharding
from time_jax.step import machine

Needs = dict[str, int | None]
"""What a step needs: `parts`, the number of micro-batches, and `peak_bytes` of
memory: the device's or, where that is not reported, the process's so far."""


class JaxStep:
  """The step that `distill` runs."""

  def __init__(self, config_json: str) -> None:
    """Builds teacher, student and one batch.

    Args:
      config_json: recipe from `compare.make_config`.
    """
    # PyTorch needs its share of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    machine.use_compilation_cache()
    config = ConfigDict(json.loads(config_json))
    # PyTorch's step has one device, too.
    self._runner = StepRunner.build({"student": config}, jax.devices()[:1])
    self._batch = self._runner.full_batch()

  def warm_up(self, name: str) -> Needs:
    """Compiles, fills the allocator's pool, and returns what a step needs."""
    self.run(name, 2)
    peak = report.peak_memory()
    return {
      "parts": 1,
      "peak_bytes": peak["device_peak"] or peak["host_peak"],
    }

  def run(self, name: str, steps: int) -> tuple[float, float]:
    """Returns the seconds that steps took, and those that cores worked."""
    del name
    worked = time.process_time()
    window = self._runner.window(itertools.repeat(self._batch), steps)
    return sum(window.seconds), time.process_time() - worked

  def parts(self, repeats: int) -> dict[str, float]:
    """Returns the seconds of the step's parts; nothing can be run after it."""
    with sharding.use_mesh(self._runner.mesh):
      return breakdown.time_parts(self._runner, self._batch, repeats)

  def describe(self) -> dict[str, Any]:
    """Returns hardware, software and the FLOPs of a step."""
    runner = self._runner
    counted = runner.flops(self._batch)
    dtype = runner.config.train.dtype
    result = machine.environment(dict(runner.mesh.shape), dtype)
    result["hardware"]["n_devices"] = runner.mesh.size
    return result | {"flops": vars(counted)}


class TorchStep:
  """The same step in PyTorch, in several variants."""

  def __init__(
    self, config_json: str, variants: Mapping[str, Mapping[str, bool]]
  ) -> None:
    """Builds teacher, student and one batch.

    Args:
      config_json: recipe from `compare.make_config`.
      variants: rows of `compare.torch_variants`.
    """
    config = ConfigDict(json.loads(config_json))
    # Imported here: only this process needs PyTorch.
    baseline = importlib.import_module("time_jax.bench.peers.torch_baseline")
    self._torch = importlib.import_module("time_jax.bench.peers.torch_device")
    self._variants = variants
    self._baseline = baseline.random_baseline(config)
    rows = SyntheticRows(
      config.train.global_batch_size,
      config.data.seq_len,
      config.teacher.architecture.vocab_size,
      config.seed,
    )
    every_row = rows.__getitems__(range(len(rows)))
    tokens = np.stack([row["tokens"] for row in every_row])
    self._batch = [
      self._torch.to_torch(array) for array in (tokens, np.ones_like(tokens))
    ]
    self._parts = 1

  def warm_up(self, name: str) -> Needs:
    """Compiles, fills the allocator's pool, and returns what a step needs.

    A batch that the device has no memory for is split into as few micro-batches
    as will do, as a user of PyTorch would; later variants start from there.
    """
    self._torch.free_memory()
    while not self._fits(name):
      self._parts *= 2
      self._torch.free_memory()
    self.run(name, 1)
    peak = self._torch.peak_memory() or host_memory.host_peak()
    return {"parts": self._parts, "peak_bytes": peak}

  def _fits(self, name: str) -> bool:
    options = dict(self._variants[name], parts=self._parts)
    if self._parts < len(self._batch[0]):
      return self._baseline.fits(*self._batch, **options)
    self._baseline.step(*self._batch, **options)  # Single rows, or an error.
    return True

  def run(self, name: str, steps: int) -> tuple[float, float]:
    """Returns the seconds that steps took, and those that cores worked."""
    options = dict(self._variants[name], parts=self._parts)
    start, worked = time.perf_counter(), time.process_time()
    for _ in range(steps):
      self._baseline.step(*self._batch, **options)
    self._torch.wait()
    return time.perf_counter() - start, time.process_time() - worked

  def describe(self) -> dict[str, Any]:
    """Returns versions and device of PyTorch."""
    return self._torch.describe()
