"""Says what memory a run takes, and checks that its step fits into the rest."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from time_jax.core.display import byte_size
from time_jax.core.errors import UserError
from time_jax.core.storage import holder
from time_jax.parallel import host_collectives

_INFO = pathlib.Path("/proc/meminfo")
# Limit and usage of a container, in control groups of version 2 and of 1.
_GROUPS = (
  ("memory.max", "memory.current"),
  ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
_GROUP_FOLDER = pathlib.Path("/sys/fs/cgroup")


def free() -> int | None:
  """Returns the free bytes of the first device; on a CPU those of the host.

  Returns:
    None where an accelerator does not say, as with some allocators.
  """
  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
  if device.platform != "cpu":
    return None
  return min([_free_of_host(), *_free_of_container()])


def compile_step(
  lowered: jax.stages.Lowered, mesh: Mesh
) -> jax.stages.Compiled:
  """Compiles a training step, and checks that it can run here.

  Where the memory of a host runs out, the system kills the process without a
  message. All processes of the run must call this: if the step does not fit for
  one of them, none of them enters it.

  Args:
    lowered: the step, lowered for arguments that are in memory already. Calling
      the jitted function with them later compiles nothing.
    mesh: devices of the step.

  Raises:
    UserError: in all processes, if the step does not fit for any of them.
  """
  machine = holder.this_machine()
  sharing_processes = host_collectives.all_gather(machine).count(machine)
  program, problem = None, None
  try:
    program = _compile(lowered)
    # The exchange above has shown that all have their arguments in memory.
    analysis = program.memory_analysis()
    check_fit(analysis, mesh.local_devices, free(), sharing_processes)
  except UserError as error:
    problem = error
  problems = host_collectives.all_gather(str(problem or ""))
  if program is None or any(problems):
    raise UserError(next(filter(None, problems))) from problem
  return program


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
  """Compiles a step; raises UserError where that runs out of memory."""
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    reason = str(error).partition("\n")[0].strip().rstrip(".")
    raise UserError(
      f"the training step does not fit on a device: {reason}. {_ADVICE}"
    ) from error


def check_fit(
  program: Any,
  devices: Sequence[jax.Device],
  free_bytes: int | None,
  sharing_processes: int = 1,
) -> None:
  """Checks that a program needs no more memory than is free.

  Args:
    program: the compiler's memory analysis, for one device; None: unknown.
    devices: devices of this process that run it.
    free_bytes: result of `free`.
    sharing_processes: number of the run's processes on this machine, each with
      as many devices.

  Raises:
    UserError: it needs more.
  """
  if program is None or free_bytes is None:  # Not every backend tells.
    return
  on_host = devices[0].platform == "cpu"
  sharing = sharing_processes * len(devices) if on_host else 1
  needed = sharing * _taken(program)
  if needed <= free_bytes:
    return
  where = f"a device ({devices[0].device_kind})"
  if on_host:
    where = "the host" + f", for its {sharing} devices" * (sharing > 1)
  raise UserError(
    f"the training step does not fit: it needs {byte_size(needed)} on {where} "
    f"beside weights and optimizer, which take "
    f"{byte_size(program.argument_size_in_bytes)}, and "
    f"{byte_size(free_bytes)} are left. {_ADVICE}"
  )


def _taken(program: Any) -> int:
  """Returns the bytes of a device that a program takes beside its arguments."""
  outputs = program.output_size_in_bytes - program.alias_size_in_bytes
  return program.temp_size_in_bytes + outputs


def describe(
  teacher_params: Any,
  states: Mapping[str, Any],
  program: Any,
  free_bytes: int | None,
  devices: Sequence[jax.Device],
) -> str:
  """Returns a line that tells what a run of several students takes.

  Args:
    teacher_params: the teacher's parameters, as the step takes them.
    states: state of each student, by name, as the step takes it.
    program: the compiler's memory analysis, for one device; None: unknown.
    free_bytes: result of `free` while nothing but the arguments is in memory.
    devices: devices of this process that run the step.
  """
  own = [f"{n} {byte_size(device_bytes(s))}" for n, s in states.items()]
  parts = [
    f"teacher {byte_size(device_bytes(teacher_params))}",
    f"{', '.join(own)} (weights and optimizer)",
  ]
  if program is not None:
    parts.append(f"the step {byte_size(_taken(program))} more")
  if free_bytes is not None:
    where = ""
    if devices[0].platform == "cpu":
      where = " on the host" + f", for {len(devices)} devices" * (
        len(devices) > 1
      )
    parts.append(f"{byte_size(free_bytes)} are left for it{where}")
  return f"memory of a device: {'; '.join(parts)}"


def device_bytes(tree: Any) -> int:
  """Returns the bytes of a device that arrays take, real or abstract."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


_ADVICE = (
  "Lower train.global_batch_size or data.seq_len, raise train.accumulation, or "
  "use more devices; `time_jax bench aot` says what would fit elsewhere."
)


def _free_of_host() -> int:
  """Returns the bytes that Linux can give, from caches and swap, too."""
  try:
    lines = _INFO.read_text().splitlines()
  except OSError:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  amounts = {
    name: int(amount.split()[0]) * 1024
    for name, _, amount in (line.partition(":") for line in lines)
  }
  return amounts["MemAvailable"] + amounts.get("SwapFree", 0)


def _free_of_container() -> list[int]:
  """Returns the free bytes below a container's limit, if there is one."""
  for limit, usage in _GROUPS:
    try:
      most = (_GROUP_FOLDER / limit).read_text().strip()
      used = int((_GROUP_FOLDER / usage).read_text())
    except (OSError, ValueError):
      continue
    # Version 1 has a number close to 2**63 where there is no limit.
    if most.isdigit() and int(most) < 2**60:
      return [int(most) - used + _caches(_GROUP_FOLDER / limit)]
  return []


def _caches(limit: pathlib.Path) -> int:
  """Returns the bytes of cached files, which the system frees on demand."""
  names = ("inactive_file", "total_inactive_file")
  try:
    lines = (limit.parent / "memory.stat").read_text().splitlines()
    return max(int(x.split()[1]) for x in lines if x.split()[0] in names)
  except (OSError, ValueError, IndexError):
    return 0
