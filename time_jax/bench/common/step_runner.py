"""A run without its loop: single steps, for measuring them.

Where a run has several students, steps can train some of them.
"""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.bench.common import teacher_alone
from time_jax.core.arrays import Batch
from time_jax.data import pipeline
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step import flops, memory, partitioning
from time_jax.step.objective import Objective
from time_jax.step.state import init_state
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
    configs: config of each student, by name.
    mesh: devices of the run.
    objectives: loss of each student; all of one teacher.
    states: state of each student after the steps so far; each step donates the
      ones before.
    teacher_params: the teacher's parameters as the step takes them.
    program: the step that was compiled last; None before `compile`.
    parallels: names of students -> the step that trains them, see `parallel`.
  """

  configs: Mapping[str, ConfigDict]
  mesh: Mesh
  objectives: Mapping[str, Objective]
  states: dict[str, Any]
  teacher_params: Any
  program: Any = None
  parallels: dict[tuple[str, ...], partitioning.Parallel] = dataclasses.field(
    default_factory=dict
  )

  @classmethod
  def build(
    cls,
    configs: Mapping[str, ConfigDict],
    devices: Sequence[jax.Device] | None = None,
  ) -> "StepRunner":
    """Builds a run at its start.

    Args:
      configs: checked config of each student, by name.
      devices: devices to use; None: all of all processes.
    """
    mesh = assembly.make_mesh(next(iter(configs.values())), devices)
    objectives = assembly.make_objectives(configs, mesh)
    teacher = next(iter(objectives.values())).teacher
    states = {
      name: init_state(
        objectives[name].init, assembly.step_settings(config), mesh
      )
      for name, config in configs.items()
    }
    runner = cls(configs, mesh, objectives, states, teacher.params)
    put = runner.parallel().put
    runner.teacher_params = put(teacher.params)
    runner.states = {name: put(state) for name, state in states.items()}
    return runner

  @property
  def config(self) -> ConfigDict:
    """Returns a config for the fields that all students have in common."""
    return next(iter(self.configs.values()))

  def parallel(self, *names: str) -> partitioning.Parallel:
    """Returns the step that trains some of the students, spread over devices.

    Args:
      *names: the students; none: all of them.
    """
    names = names or tuple(self.configs)
    if names not in self.parallels:
      configs = {name: self.configs[name] for name in names}
      self.parallels[names] = assembly.make_parallel(
        configs, self.objectives, self.mesh
      )
    return self.parallels[names]

  def full_batch(self) -> Batch:
    """Returns a batch of full rows of random tokens, on the devices."""
    teacher = next(iter(self.objectives.values())).teacher
    rows = pipeline.SyntheticRows(
      self.config.train.global_batch_size,
      self.config.data.seq_len,
      teacher.vocab_size,
      self.config.seed,
    )
    return self.parallel().put_batch(self._source(rows).batch_at(0))

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
      put=self.parallel().put_batch,
    )

  def _source(self, rows: pipeline.Rows) -> pipeline.BatchSource:
    batch_size = self.config.train.global_batch_size
    return pipeline.BatchSource(
      rows,
      seed=self.config.seed,
      global_batch_size=batch_size,
      wanted=sharding.local_rows(self.mesh, batch_size),
    )

  def flops(self, batch: Batch, *names: str) -> flops.StepFlops:
    """Counts the operations of a step, see `parallel`."""
    chosen = names or tuple(self.configs)
    return flops.step_flops(
      {name: self.objectives[name] for name in chosen},
      {name: self.states[name].params for name in chosen},
      batch,
    )

  def compile(self, batch: Batch, *names: str) -> dict[str, Any]:
    """Compiles the step, see `parallel`, runs it once, and describes it.

    Returns:
      "flops", "xla_flops", "time" and "memory" as `bench step` reports them.
    """
    counted = self.flops(batch, *names)
    start = time.perf_counter()
    with cache_hits() as hits:
      lowered = self.parallel(*names).lower(
        self._chosen(names), self.teacher_params, batch
      )
      self.program = memory.compile_step(lowered, self.mesh)
    compiled = time.perf_counter()
    self._step(names, batch)
    jax.block_until_ready(self.states)
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

  def window(self, batches: Iterator[Batch], steps: int, *names: str) -> Window:
    """Runs steps, see `parallel`, the way the training loop does.

    Two of them are in flight. A step ends when its results are there, so the
    steps' times add up to the time of the window.
    """
    window = _window(functools.partial(self._step, names), batches, steps)
    jax.block_until_ready(self.states)
    return window

  def teacher_window(self, batches: Iterator[Batch], steps: int) -> Window:
    """Runs the teacher as the steps of all students do, and nothing else."""
    return _window(self._ask, batches, steps)

  def _step(self, names: Sequence[str], batch: Batch) -> Metrics:
    states, scalars = self.parallel(*names).step(
      self._chosen(names), self.teacher_params, batch
    )
    self.states |= states
    return next(iter(scalars.values()))

  def _chosen(self, names: Sequence[str]) -> dict[str, Any]:
    return {name: self.states[name] for name in names or self.configs}

  def _ask(self, batch: Batch) -> Metrics:
    params = {name: state.params for name, state in self.states.items()}
    with sharding.use_mesh(self.mesh):
      return self._teacher(params, self.teacher_params, batch)

  @functools.cached_property
  def _teacher(self) -> Callable[..., Metrics]:
    return jax.jit(
      functools.partial(
        teacher_alone.ask, self.objectives, self.config.train.accumulation
      )
    )


def _window(
  run: Callable[[Batch], Metrics], batches: Iterator[Batch], steps: int
) -> Window:
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
    pending.append(run(batch))
    if len(pending) > _IN_FLIGHT:
      await_oldest()
  while pending:
    await_oldest()
  return Window(list(np.diff(ends)), waited, sum(map(int, tokens)))


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
