"""A run without its loop: single steps, for measuring them."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.core.arrays import Batch
from time_jax.data import pipeline
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step import flops, memory, partitioning
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, init_state
from time_jax.step.train_step import Metrics

_IN_FLIGHT = 2  # Steps that the training loop dispatches ahead of results.


@dataclasses.dataclass(frozen=True)
class Window:
  """Measurements of some consecutive steps.

  Attributes:
    seconds: time of each step, from the end of the one before to its own end.
    waited: seconds spent waiting for the next batch.
    real_tokens: tokens of all steps, without padding.
  """

  seconds: list[float]
  waited: float
  real_tokens: int


@dataclasses.dataclass
class StepRunner:
  """The training step with all that it takes, as `distill` builds it.

  Attributes:
    config: recipe of the run.
    mesh: its devices.
    objective: teacher, student and relation loss.
    settings: optimizer, schedule and guards of the step.
    parallel: the step, spread over the devices.
    state: state after the steps so far; each step donates the one before.
    teacher_params: the teacher's parameters as the step takes them.
    program: the compiled step; None before `compile`.
  """

  config: ConfigDict
  mesh: Mesh
  objective: Objective
  settings: StepSettings
  parallel: partitioning.Parallel
  state: Any
  teacher_params: Any
  program: Any = None

  @classmethod
  def build(
    cls, config: ConfigDict, devices: Sequence[jax.Device] | None = None
  ) -> "StepRunner":
    """Builds a run at its start.

    Args:
      config: checked recipe.
      devices: devices to use; None: all of all processes.
    """
    mesh = assembly.make_mesh(config, devices)
    configs = {"student": config}
    objectives = assembly.make_objectives(configs, mesh)
    objective = objectives["student"]
    settings = assembly.step_settings(config)
    parallel = assembly.make_parallel(configs, objectives, mesh)
    state = init_state(objective.init, settings, mesh)
    frozen = parallel.put(objective.teacher.params)
    state = parallel.put(state)
    return cls(config, mesh, objective, settings, parallel, state, frozen)

  def full_batch(self) -> Batch:
    """Returns a batch of full rows of random tokens, on the devices."""
    rows = pipeline.SyntheticRows(
      self.config.train.global_batch_size,
      self.config.data.seq_len,
      self.objective.teacher.vocab_size,
      self.config.seed,
    )
    return self.parallel.put_batch(self._source(rows).batch_at(0))

  def loader(
    self, rows: pipeline.Rows, steps: int
  ) -> Generator[Batch, None, None]:
    """Yields batches as a run gets them.

    Args:
      rows: rows of the training text.
      steps: number of batches.
    """
    return pipeline.prefetch(
      self._source(rows).batch_at,
      0,
      steps,
      depth=self.config.data.prefetch,
      put=self.parallel.put_batch,
    )

  def _source(self, rows: pipeline.Rows) -> pipeline.BatchSource:
    batch_size = self.config.train.global_batch_size
    return pipeline.BatchSource(
      rows,
      seed=self.config.seed,
      global_batch_size=batch_size,
      wanted=sharding.local_rows(self.mesh, batch_size),
    )

  def compile(self, batch: Batch) -> dict[str, Any]:
    """Compiles the step, runs it once, and describes it.

    Returns:
      "flops", "xla_flops", "time" and "memory" as `bench step` reports them.
    """
    counted = flops.step_flops(
      {"student": self.objective}, {"student": self.state.params}, batch
    )
    start = time.perf_counter()
    with cache_hits() as hits:
      lowered = self.parallel.lower(
        {"student": self.state}, self.teacher_params, batch
      )
      self.program = memory.compile_step(lowered, self.mesh)
    compiled = time.perf_counter()
    self._step(batch)
    jax.block_until_ready(self.state)
    first = time.perf_counter()
    costs = self.program.cost_analysis() or {}
    return {
      "flops": {**vars(counted), "total": counted.total},
      # Never the numerator of MFU: XLA counts the body of a loop once.
      "xla_flops": costs.get("flops"),
      "time": {
        "compile_s": compiled - start,
        "cache": "warm" if hits else "cold",
        "first_step_s": first - start,
      },
      "memory": {"program": _program_memory(self.program.memory_analysis())},
    }

  def window(self, batches: Iterator[Batch], steps: int) -> Window:
    """Runs steps the way the training loop does, two of them in flight.

    A step ends when its results are there, so the steps' times add up to the
    time of the window.
    """
    pending: collections.deque[Any] = collections.deque()
    tokens, waited = [], 0.0
    ends = [time.perf_counter()]

    def await_oldest() -> None:
      tokens.append(pending.popleft()["data/tokens"].block_until_ready())
      ends.append(time.perf_counter())

    for _ in range(steps):
      before = time.perf_counter()
      batch = next(batches)
      waited += time.perf_counter() - before
      pending.append(self._step(batch))
      if len(pending) > _IN_FLIGHT:
        await_oldest()
    while pending:
      await_oldest()
    jax.block_until_ready(self.state)
    return Window(list(np.diff(ends)), waited, sum(map(int, tokens)))

  def _step(self, batch: Batch) -> Metrics:
    states, scalars = self.parallel.step(
      {"student": self.state}, self.teacher_params, batch
    )
    self.state = states["student"]
    return scalars["student"]


@contextlib.contextmanager
def cache_hits() -> Iterator[list[str]]:
  """Collects what is read from the compilation cache inside the context."""
  hits: list[str] = []

  def listen(event: str, **_: str | int) -> None:
    if event.endswith("/cache_hits"):
      hits.append(event)

  jax.monitoring.register_event_listener(listen)
  try:
    yield hits
  finally:
    jax.monitoring.unregister_event_listener(listen)


def _program_memory(analysis: Any) -> dict[str, int]:
  """Returns bytes on one device, as the compiler planned them."""
  planned = {
    "arguments": analysis.argument_size_in_bytes,
    "outputs": analysis.output_size_in_bytes,
    "aliased": analysis.alias_size_in_bytes,
    "temporaries": analysis.temp_size_in_bytes,
  }
  # An output that replaces an argument takes its place.
  total = sum(planned.values()) - 2 * planned["aliased"]
  return planned | {"total": total}
