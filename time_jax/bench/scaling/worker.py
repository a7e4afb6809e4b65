"""One measurement of `bench scaling`, in a process (or some) of its own.

  python -m time_jax.bench.scaling.worker JOB.json

It needs a process because the number of a machine's CPU devices is fixed when
JAX starts, and so is what a process holds of an accelerator's memory.
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from time_jax.bench.aot import program
from time_jax.bench.aot.collectives import collectives, totals
from time_jax.bench.common.run import Run
from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.core.storage import atomic_file
from time_jax.hf.files import read_json
from time_jax.parallel import processes
from time_jax.run import assembly, loop
from time_jax.step import machine, memory


def run_job(path: pathlib.Path) -> int:
  """Measures what a job file says; process 0 writes the result.

  Args:
    path: JSON with the run's `config`, the number of `devices`, the `steps`
      that count, and `out`, the file to write.

  Returns:
    The exit code.
  """
  job = read_json(path)
  try:
    processes.initialize()
    loop.use_compilation_cache()
    found = measure(ConfigDict(job["config"]), job["devices"], job["steps"])
  except UserError as error:
    print(f"time_jax: error: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT
  if jax.process_index() == 0:
    atomic_file.write_json(pathlib.Path(job["out"]), found)
  return 0


def measure(config: ConfigDict, count: int, steps: int) -> dict[str, Any]:
  """Times the step that `distill` runs, on one reused synthetic batch.

  Args:
    config: of the run.
    count: devices to use, the first ones of all processes.
    steps: that count, each waited for; one before them does not.

  Raises:
    UserError: fewer devices than that, or a run that they refuse.
  """
  devices = jax.devices()
  whole = jax.process_count() == 1 or count == len(devices)
  if len(devices) < count or not whole:
    raise UserError(
      f"--devices={count} does not fit {len(devices)} device(s) in "
      f"{jax.process_count()} process(es)"
      + ("." if whole else "; several processes use all of their devices.")
    )
  assembly.teacher_config(config)
  run = Run.build(config, devices[:count])
  batch = run.full_batch()
  start = time.perf_counter()
  lowered = run.how.lower(run.state, run.teacher_params, batch)
  step = memory.compile_step(lowered, run.mesh)
  compile_seconds = time.perf_counter() - start
  state, seconds = run.state, []
  for _ in range(steps + 1):
    start = time.perf_counter()
    state, _ = step(state, run.teacher_params, batch)
    jax.block_until_ready(state)
    seconds.append(time.perf_counter() - start)
  text = program.read(step.as_text() or "")
  exchanges = totals(collectives(text, count))
  mesh, train_config = dict(run.mesh.shape), config.train
  planned: Any = step.memory_analysis()
  return machine.environment(mesh, train_config.dtype) | {
    "platform": devices[0].platform,
    "devices": count,
    "processes": jax.process_count(),
    "mesh": mesh,
    "rows": train_config.global_batch_size,
    "tokens": train_config.global_batch_size * config.data.seq_len,
    "compile_seconds": compile_seconds,
    "first_step_seconds": seconds[0],
    "step_seconds": seconds[1:],
    "temporary_bytes": planned.temp_size_in_bytes,
    "collectives": [dataclasses.asdict(one) for one in exchanges],
  }


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt):
    sys.exit(run_job(pathlib.Path(sys.argv[1])))
