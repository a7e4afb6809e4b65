"""The loop: it never waits for a step that it has just started."""

import dataclasses
import types

import jax
import numpy as np
from tiny_recipe import get_config

from time_jax.run import loop
from time_jax.telemetry import metrics


class Lazy:
  """A scalar of a step, which tells when somebody waits for it."""

  def __init__(self, value, look):
    self.value, self.look = value, look

  def __int__(self):
    self.look()
    return int(self.value)

  def __array__(self, dtype=None, copy=None):
    self.look()
    return np.asarray(self.value, dtype)


def test_results_are_looked_at_two_steps_late(
  tiny, tmp_path, monkeypatch, one_process
):
  """But for stops, before which all are."""
  events = []
  make_parallel = loop.make_parallel

  def make_lazy(*arguments):
    how = make_parallel(*arguments)

    def step(*inputs):
      number = 1 + sum(kind == "step" for kind, _ in events)
      events.append(("step", number))

      def look():
        if events[-1] != ("look", number):
          events.append(("look", number))

      state, scalars = how.step(*inputs)
      return state, {name: Lazy(x, look) for name, x in scalars.items()}

    return dataclasses.replace(how, step=step)

  monkeypatch.setattr(loop, "make_parallel", make_lazy)
  config = get_config(tiny)
  config.train.num_steps = 8
  config.eval.every = 6
  config.checkpoint.every = config.checkpoint.keep_every = 100
  assert loop.distill(config, tmp_path) == 0
  assert " ".join(f"{kind} {number}" for kind, number in events) == (
    "step 1 step 2 step 3 look 1 step 4 look 2 step 5 look 3 step 6 look 4 "
    # At a stop tokens first: what is pending is one interval.
    "look 5 look 6 look 5 look 6 "
    "step 7 step 8 look 7 look 8 look 7 look 8"
  )


def test_tokens_of_all_steps_between_two_records_count(tiny, monkeypatch):
  """Not those of the last one, as often as there were steps."""
  config = get_config(tiny)
  config.log.every = 3
  rows = []
  run = types.SimpleNamespace(config=config, profile=range(0), _spent=dict)
  recorder = types.SimpleNamespace(write=lambda step, row: rows.append(row))
  clock = iter(range(0, 100, 10))
  fake = types.SimpleNamespace(perf_counter=lambda: next(clock))
  monkeypatch.setattr(metrics, "time", fake)
  meter = metrics.Throughput()
  for step, tokens in enumerate((500, 100, 40, 8, 2, 1), 1):
    scalars = {"train/skipped_in_a_row": 0, "data/tokens": np.int32(tokens)}
    meter.count(tokens)
    loop._Run._look_at(run, step, scalars, recorder, meter)
  assert [row["data/tokens"] for row in rows] == [40, 1]
  assert [row["perf/tokens_per_second"] for row in rows] == [64.0, 1.1]
  assert [row["perf/steps_per_second"] for row in rows] == [0.3, 0.3]


def test_compiled_programs_are_kept_unless_told_where(monkeypatch, tmp_path):
  def folder():
    loop.use_compilation_cache()
    return jax.config.jax_compilation_cache_dir

  before = jax.config.jax_compilation_cache_dir
  try:
    assert folder() == before  # Named by JAX_COMPILATION_CACHE_DIR.
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == str(tmp_path / ".cache" / "time_jax" / "compiled")
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
