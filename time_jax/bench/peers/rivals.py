"""The two that `bench compare` lets run, each in a process of its own."""

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

from time_jax.bench.common import breakdown, report
from time_jax.bench.common.run import Run
from time_jax.config.distill import STUDENT_SIZES, check_config, default_config
from time_jax.data.pipeline import SyntheticRows
from time_jax.parallel import sharding
from time_jax.run import assembly, loop
from time_jax.step import flops, machine, train_step

# Of the main teacher's config.json; a teacher of random weights is as fast.
XLMR_LARGE = {
  "model_type": "xlm-roberta",
  "vocab_size": 250_002,
  "hidden_size": 1024,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "intermediate_size": 4096,
  "max_position_embeddings": 514,
  "type_vocab_size": 1,
  "layer_norm_eps": 1e-5,
  "pad_token_id": 1,
}
_LAYER = 19
Needs = dict[str, int | None]
"""`parts` that a batch is worked in, and `peak_bytes` of memory: the device's,
or where it does not say so the process's so far."""


def make_config(
  size: str, batch_size: int, seq_len: int, dtype: str
) -> ConfigDict:
  """The paper's recipe at other batch sizes, with a random teacher."""
  config = default_config()
  config.teacher.path = assembly.RANDOM
  config.teacher.layer = _LAYER
  config.teacher.dtype = config.train.dtype = dtype
  config.teacher.architecture = ConfigDict(XLMR_LARGE)
  config.student.update(STUDENT_SIZES[size])
  config.data.seq_len = seq_len
  config.data.synthetic_rows = batch_size
  config.train.global_batch_size = batch_size
  config.eval.global_batch_size = batch_size
  check_config(config)
  return config


class Ours:
  """The step that `distill` runs; lives in a worker."""

  def __init__(self, config_json: str) -> None:
    """Builds teacher, student and one batch.

    Args:
      config_json: from `make_config`.
    """
    # PyTorch needs its share of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    loop.use_compilation_cache()
    config = ConfigDict(json.loads(config_json))
    # PyTorch's step is one device's, too.
    self._run = Run.build(config, jax.devices()[:1])
    self._batch = self._run.full_batch()

  def warm_up(self, name: str) -> Needs:
    """Compiles, fills the allocator's pool, and says what a step needs."""
    self.run(name, 2)
    found = report.peak_memory()
    return {
      "parts": 1,
      "peak_bytes": found["device_peak"] or found["host_peak"],
    }

  def run(self, name: str, steps: int) -> tuple[float, float]:
    """Seconds that some steps took, and seconds that cores worked for them."""
    del name
    worked = time.process_time()
    window = self._run.window(itertools.repeat(self._batch), steps)
    return sum(window.seconds), time.process_time() - worked

  def parts(self, repeats: int) -> dict[str, float]:
    """Seconds of the step's parts; the last thing to be asked for."""
    run = self._run
    with sharding.use_mesh(run.mesh):
      return breakdown.time_parts(
        run.objective, run.tx, run.state, self._batch, repeats
      )

  def describe(self) -> dict[str, Any]:
    """Hardware, software and the arithmetic of a step."""
    run = self._run
    student = train_step.abstract_state(run.objective.student, run.tx, run.mesh)
    counted = flops.step_flops(run.objective, student.params, self._batch)
    dtype = run.config.train.dtype
    about = machine.environment(dict(run.mesh.shape), dtype)
    about["hardware"]["n_devices"] = run.mesh.size
    return about | {"flops": vars(counted)}


class Theirs:
  """The baseline; lives in a worker."""

  def __init__(
    self, config_json: str, rivals: Mapping[str, Mapping[str, bool]]
  ) -> None:
    """Builds teacher, student and one batch.

    Args:
      config_json: from `make_config`.
      rivals: from `theirs`.
    """
    config = ConfigDict(json.loads(config_json))
    # Imported here: only this process needs PyTorch.
    self._torch = importlib.import_module("time_jax.bench.peers.torch_baseline")
    self._rivals = rivals
    self._baseline = self._torch.random_baseline(
      config.teacher.architecture.to_dict(),
      config.student.to_dict(),
      layer=config.teacher.layer,
      num_heads=config.relations.num_heads,
      optimizer=config.train.to_dict(),
      seed=config.seed,
      bfloat16=config.train.dtype == "bfloat16",
    )
    tokens = random_tokens(config)
    self._batch = (
      self._torch.on_device(tokens),
      self._torch.on_device(np.ones_like(tokens)),
    )
    self._parts = 1

  def warm_up(self, name: str) -> Needs:
    """Compiles, fills the allocator's pool, and says what a step needs.

    A batch that the device has no memory for is worked in parts, as few as
    will do, as a user of PyTorch would have it; later ones start from there.
    """
    self._torch.empty()
    while not self._fits(name):
      self._parts *= 2
      self._torch.empty()
    self.run(name, 1)
    peak = self._torch.device_peak() or report.host_peak()
    return {"parts": self._parts, "peak_bytes": peak}

  def _fits(self, name: str) -> bool:
    how = dict(self._rivals[name], parts=self._parts)
    if self._parts < len(self._batch[0]):
      return self._baseline.fits(*self._batch, **how)
    self._baseline.step(*self._batch, **how)  # Or there is no way.
    return True

  def run(self, name: str, steps: int) -> tuple[float, float]:
    """Seconds that some steps took, and seconds that cores worked for them."""
    start, worked = time.perf_counter(), time.process_time()
    for _ in range(steps):
      self._baseline.step(*self._batch, **self._rivals[name], parts=self._parts)
    self._torch.wait()
    return time.perf_counter() - start, time.process_time() - worked

  def describe(self) -> dict[str, Any]:
    """What PyTorch says about its surroundings."""
    return self._torch.describe()


def random_tokens(config: ConfigDict) -> np.ndarray:
  """The one batch, of full rows."""
  rows = SyntheticRows(
    config.train.global_batch_size,
    config.data.seq_len,
    config.teacher.architecture.vocab_size,
    config.seed,
  )
  return np.stack(
    [row["tokens"] for row in rows.__getitems__(range(len(rows)))]
  )
