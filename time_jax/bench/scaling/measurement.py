"""One measurement of `bench scaling`, in one or more processes of its own.

The number of a machine's CPU devices is fixed when JAX starts, and so is what
a process holds of an accelerator's memory.
"""

import dataclasses
import importlib
import itertools
from contextlib import ExitStack
from typing import Any

import jax
from ml_collections import ConfigDict

from time_jax.bench.aot import program
from time_jax.bench.aot.collectives import collectives, totals
from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.step_runner import StepRunner
from time_jax.config import students
from time_jax.core.errors import UserError
from time_jax.parallel import processes
from time_jax.run import assembly
from time_jax.step import machine


def measure_apart(
  config: ConfigDict, count: int, steps: int, *, one_process_each: bool
) -> dict[str, Any]:
  """Calls `measure` in new processes of this machine.

  Args:
    config: recipe of the run.
    count: number of devices.
    steps: number of steps that count.
    one_process_each: whether each device gets a process, and not one process
      all of them.

  Returns:
    What `measure` returns in process 0.

  Raises:
    UserError: the recipe or the number of devices is refused.
    RunError: a process ended, or raised another error.
  """
  environments = [{"JAX_NUM_CPU_DEVICES": str(count)}]
  if one_process_each:
    address = f"localhost:{processes.free_port()}"
    environments = [
      {
        "JAX_NUM_CPU_DEVICES": "1",
        "TIME_JAX_COORDINATOR": address,
        "TIME_JAX_NUM_PROCESSES": str(count),
        "TIME_JAX_PROCESS_ID": str(i),
      }
      for i in range(count)
    ]
  with ExitStack() as stack:
    children = [
      stack.enter_context(
        ChildProcess(importlib.import_module, __name__, environment=variables)
      )
      for variables in environments
    ]
    for child in children:
      child.send("join_and_measure", config.to_dict(), count, steps)
    results = [child.receive() for child in children]
  return results[0]


def join_and_measure(
  config: dict[str, Any], count: int, steps: int
) -> dict[str, Any]:
  """Joins the processes of the measurement, measures, and leaves them."""
  processes.initialize()
  machine.use_compilation_cache()
  try:
    return measure(ConfigDict(config), count, steps)
  finally:
    # Here, where all are at the same place: they end one after the other.
    jax.distributed.shutdown()


def measure(config: ConfigDict, count: int, steps: int) -> dict[str, Any]:
  """Times the step that `distill` runs, on one reused synthetic batch.

  Args:
    config: recipe of the run.
    count: number of devices to use, the first ones of all processes.
    steps: number of steps that count, in a `StepRunner.window`.

  Returns:
    The measurement, as the JSON file holds it.

  Raises:
    UserError: there are fewer devices, or they do not suit the recipe.
  """
  devices = jax.devices()
  whole = jax.process_count() == 1 or count == len(devices)
  if len(devices) < count or not whole:
    raise UserError(
      f"--devices={count} does not fit {len(devices)} device(s) in "
      f"{jax.process_count()} process(es)"
      + ("." if whole else "; several processes use all of their devices.")
    )
  configs = students.effective(config)
  assembly.check_students(configs)
  runner = StepRunner.build(configs, devices[:count])
  batch = runner.full_batch()
  about = runner.compile(batch)
  window = runner.window(itertools.repeat(batch), steps)
  text = program.read(runner.program.as_text() or "")
  mesh, batch_size = dict(runner.mesh.shape), config.train.global_batch_size
  return machine.environment(mesh, config.train.dtype) | {
    "platform": devices[0].platform,
    "devices": count,
    "processes": jax.process_count(),
    "mesh": mesh,
    "rows": batch_size,
    "tokens": batch_size * config.data.seq_len,
    "compile_seconds": about["time"]["compile_s"],
    "first_step_seconds": about["time"]["first_step_s"],
    "step_seconds": window.seconds,
    "temporary_bytes": about["memory"]["program"]["temporaries"],
    "collectives": [
      dataclasses.asdict(total) for total in totals(collectives(text, count))
    ],
  }
