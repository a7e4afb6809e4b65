"""A run without its loop: one step at a time, for measuring it."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.core.arrays import Batch
from time_jax.data import pipeline
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step import flops, memory, partitioning, train_step
from time_jax.step.objective import Objective

_IN_FLIGHT = 2  # Steps that the training loop lets wait for their results.


@dataclasses.dataclass(frozen=True)
class Window:
  """What was seen of some steps in a row.

  Attributes:
    seconds: of each, from the end of the one before to its own.
    waited: seconds in which the next batch was not there.
    real_tokens: of all steps, padding left out.
  """

  seconds: list[float]
  waited: float
  real_tokens: int


@dataclasses.dataclass
class Run:
  """What one step needs, all as `train.distill` builds it.

  Attributes:
    config: the recipe.
    mesh: the devices.
    objective: teacher and student.
    tx: the optimizer.
    how: the step, spread over the devices.
    state: after the steps so far; every step uses the one before up.
    teacher_params: as the step takes them.
  """

  config: ConfigDict
  mesh: Mesh
  objective: Objective
  tx: optax.GradientTransformation
  how: partitioning.Parallel
  state: Any
  teacher_params: Any

  @classmethod
  def build(
    cls, config: ConfigDict, devices: Sequence[jax.Device] | None = None
  ) -> "Run":
    """A run at its start.

    Args:
      config: checked.
      devices: all of all processes if absent.
    """
    mesh = assembly.make_mesh(config, devices)
    teacher = assembly.make_teacher(config, mesh)
    objective = assembly.make_objective(config, teacher)
    tx = assembly.make_optimizer(config)
    how = assembly.make_parallel(config, objective, tx, mesh)
    state = train_step.init_state(
      objective.student, tx, mesh, config.seed, **assembly.extras(config)
    )
    frozen = how.put(teacher.params)
    return cls(config, mesh, objective, tx, how, how.put(state), frozen)

  def full_batch(self) -> Batch:
    """This process's part of a batch of full rows of random tokens."""
    size, vocab_size = self._batch_size(), self.objective.teacher.vocab_size
    length, seed = self.config.data.seq_len, self.config.seed
    rows = pipeline.SyntheticRows(size, length, vocab_size, seed)
    return self.how.put_batch(self._source(rows).batch_at(0))

  def loader(
    self, rows: pipeline.Rows, steps: int
  ) -> Generator[Batch, None, None]:
    """Batches as a run gets them.

    Args:
      rows: of the training text.
      steps: after which it ends.
    """
    return pipeline.prefetch(
      self._source(rows).batch_at,
      0,
      steps,
      depth=self.config.data.prefetch,
      put=self.how.put_batch,
    )

  def _source(self, rows: pipeline.Rows) -> pipeline.BatchSource:
    return pipeline.BatchSource(
      rows,
      seed=self.config.seed,
      global_batch_size=self._batch_size(),
      wanted=sharding.local_rows(self.mesh, self._batch_size()),
    )

  def _batch_size(self) -> int:
    return self.config.train.global_batch_size

  def compile(self, batch: Batch) -> dict[str, Any]:
    """Compiles, runs the first step, and counts what the step is."""
    counted = flops.step_flops(self.objective, self.state.params, batch)
    start = time.perf_counter()
    with cache_hits() as hits:
      lowered = self.how.lower(self.state, self.teacher_params, batch)
      program = memory.compile_step(lowered, self.mesh)
    compiled = time.perf_counter()
    self._step(batch)
    jax.block_until_ready(self.state)
    first = time.perf_counter()
    planned = program.memory_analysis()
    costs = program.cost_analysis() or {}
    return {
      "flops": {**vars(counted), "total": counted.total},
      # Never the numerator of MFU: it counts the body of a loop once.
      "xla_flops": costs.get("flops"),
      "time": {
        "compile_s": compiled - start,
        "cache": "warm" if hits else "cold",
        "first_step_s": first - start,
      },
      "memory": {"program": _program_memory(planned)},
    }

  def window(self, batches: Iterator[Batch], steps: int) -> Window:
    """Runs steps the way the training loop does, two of them in flight.

    A step's time ends with its results, so the times add up to the window's.
    """
    pending: collections.deque[Any] = collections.deque()
    tokens, waited = [], 0.0
    ends = [time.perf_counter()]

    def look() -> None:
      tokens.append(pending.popleft()["data/tokens"].block_until_ready())
      ends.append(time.perf_counter())

    for _ in range(steps):
      before = time.perf_counter()
      batch = next(batches)
      waited += time.perf_counter() - before
      pending.append(self._step(batch))
      if len(pending) > _IN_FLIGHT:
        look()
    while pending:
      look()
    jax.block_until_ready(self.state)
    return Window(list(np.diff(ends)), waited, sum(map(int, tokens)))

  def _step(self, batch: Batch) -> train_step.Metrics:
    self.state, scalars = self.how.step(self.state, self.teacher_params, batch)
    return scalars


@contextlib.contextmanager
def cache_hits() -> Iterator[list[str]]:
  """Collects what is read from the compilation cache meanwhile."""
  hits: list[str] = []

  def listen(event: str, **more: str | int) -> None:
    del more
    if event.endswith("/cache_hits"):
      hits.append(event)

  jax.monitoring.register_event_listener(listen)
  try:
    yield hits
  finally:
    jax.monitoring.unregister_event_listener(listen)


def _program_memory(memory: Any) -> dict[str, int]:
  """Bytes on one device, as the compiler planned them."""
  return {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes,
    "aliased": memory.alias_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "total": memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
  }
