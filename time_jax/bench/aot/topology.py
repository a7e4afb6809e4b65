"""Devices that a program can be compiled for without having them."""

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from time_jax.core.errors import UserError

# Slices that Google Cloud rents, https://cloud.google.com/tpu/docs, which an
# error message names.
_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8"
_SLICES = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}
# libtpu asks where it runs and complains when there is no answer; and it lets
# only one process have it, which is meant for processes that use a TPU.
_NO_TPU_HERE = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Link:
  """Bandwidths of a kind of device.

  Attributes:
    hbm: bytes/s of its main memory.
    ici: bytes/s of a link to a neighbour, in one direction.
    ring: a slice whose sides are all multiples of this number closes its rings,
      so that both directions of a link carry one collective; 0: there are no
      slices.
    source: where the numbers are published.
  """

  hbm: float
  ici: float
  ring: int
  source: str


_TPU = (
  "https://cloud.google.com/tpu/docs, "
  "https://jax-ml.github.io/scaling-book/tpus"
)
_GPU = "https://www.nvidia.com/en-us/data-center/"
# device_kind as JAX reports it -> bandwidths; for GPUs NVLink within a host.
LINKS = {
  "TPU v4": Link(hbm=1200e9, ici=45e9, ring=4, source=_TPU),
  "TPU v5 lite": Link(hbm=819e9, ici=45e9, ring=16, source=_TPU),
  "TPU v5": Link(hbm=2765e9, ici=90e9, ring=4, source=_TPU),
  "TPU v6 lite": Link(hbm=1638e9, ici=90e9, ring=16, source=_TPU),
  "NVIDIA A100-SXM4-80GB": Link(2039e9, 300e9, 0, _GPU + "a100"),
  "NVIDIA H100 80GB HBM3": Link(3350e9, 450e9, 0, _GPU + "h100"),
  "NVIDIA H200": Link(4800e9, 450e9, 0, _GPU + "h200"),
}
# Name -> device_kind, and bytes of memory (same source). JAX uses a share of
# them, see https://docs.jax.dev/en/latest/201/gpu-memory.html.
_GPUS = {
  "a100": ("NVIDIA A100-SXM4-80GB", 80e9),
  "h100": ("NVIDIA H100 80GB HBM3", 80e9),
  "h200": ("NVIDIA H200", 141e9),
}
_GPU_SHARE = 0.75
_GPUS_OF_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices, present or only described.

  Attributes:
    name: name as the user writes it.
    devices: devices that a mesh can be made of.
    memory: bytes that one program may use on a device; None if not known. On
      a TPU it is the limit of the compiler itself.
    stands_for: kind of the devices that this machine's stand for; empty if
      they stand for none.
  """

  name: str
  devices: Sequence[jax.Device]
  memory: int | None
  stands_for: str = ""

  @property
  def kind(self) -> str:
    """Kind of the device, as JAX reports it."""
    return self.stands_for or self.devices[0].device_kind

  @property
  def axis_bandwidth(self) -> float:
    """Bytes/s that a device of `LINKS` sends in a ring along one axis."""
    link = LINKS[self.kind]
    if not link.ring:
      return link.ici
    sides = [int(side) for side in self.name.partition(":")[2].split("x")]
    closed = all(side % link.ring == 0 for side in sides)
    return link.ici * (2 if closed else 1)


def find(name: str) -> Topology:
  """Finds a topology by its name.

  Args:
    name: GENERATION:SHAPE of a TPU slice, such as v5e:4x4 or v5p:4x4x4, which
      takes libtpu but no TPU; cpu:N, that many devices of this machine; or
      h100:N, likewise a100 and h200, where cpu:N stands for a host's GPUs:
      only a machine with such a GPU can compile for it.

  Raises:
    UserError: there is no such topology.
  """
  generation, _, shape = name.partition(":")
  if generation == "cpu" and shape.isdigit() and int(shape):
    return Topology(name, _cpus(int(shape)), None)
  if generation in _GPUS and shape.isdigit():
    return _gpus(name, generation, int(shape))
  if not re.fullmatch(r"\w+:\d+(x\d+)+", name):
    raise UserError(
      f"--topology={name} is no topology; expected GENERATION:SHAPE of a TPU "
      "slice, such as v5e:4x4 or v5p:4x4x4, or cpu:N, or GPUs of a host: "
      f"{', '.join(f'{gpu}:N' for gpu in _GPUS)}."
    )
  if not _has_libtpu():
    raise UserError(
      f"--topology={name} needs libtpu, which compiles for TPUs on any Linux "
      "machine and is not installed: pip install -e '.[aot]' in the "
      "repository."
    )
  devices = _tpus(name)
  if devices is None:
    raise UserError(
      f"--topology={name} is not accepted by this libtpu. It accepts, among "
      f"others, {'; '.join(f'{k}: {slices}' for k, slices in _SLICES.items())}."
    )
  return Topology(name, devices, _memory(devices[0]))


def _gpus(name: str, card: str, count: int) -> Topology:
  if not 0 < count <= _GPUS_OF_A_HOST:
    raise UserError(
      f"--topology={name}: expected 1 to {_GPUS_OF_A_HOST} GPUs, those of a "
      "host; what links hosts is not known."
    )
  kind, memory = _GPUS[card]
  return Topology(name, _cpus(count), int(_GPU_SHARE * memory), kind)


def _has_libtpu() -> bool:
  installed = importlib.util.find_spec("libtpu") is not None
  return installed or "TPU_LIBRARY_PATH" in os.environ


def _tpus(name: str) -> list[jax.Device] | None:
  for variable, value in _NO_TPU_HERE.items():
    os.environ.setdefault(variable, value)
  options: dict[str, Any] = {}
  if name.startswith("v4:"):
    options["chip_config_name"] = (
      "megacore"  # One device a chip, as on its VMs.
    )
  if name.endswith(":1x1"):
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    return topologies.get_topology_desc(name, "tpu", **options).devices
  except jax.errors.JaxRuntimeError as error:
    if str(error).startswith("INVALID_ARGUMENT"):
      return None
    reason = str(error).partition("\n")[0]
    raise UserError(f"libtpu cannot be used: {reason}") from error


def _memory(device: jax.Device) -> int | None:
  """Reads the memory's size from the compiler's refusal of a huge program."""
  too_large = jax.ShapeDtypeStruct(
    (2**44,), jnp.int8, sharding=SingleDeviceSharding(device)
  )
  try:
    jax.jit(lambda x: x + 1).lower(too_large).compile()
  except jax.errors.JaxRuntimeError as error:
    sizes = read_memory(str(error))
    return sizes and sizes[1]
  return None


def read_memory(message: str) -> tuple[int, int] | None:
  """Reads the bytes of HBM that a program needs, and that there are.

  Args:
    message: error of the compiler.

  Returns:
    Both numbers; None if the error is about something else.
  """
  size = r"([\d.]+)([MGT])"
  match = re.search(
    rf"\({size}\) exceeds available HBM \({size}\)|Used {size} of {size} hbm",
    message,
  )
  if not match:
    return None
  number, unit, limit, limit_unit = filter(None, match.groups())
  powers = {"M": 2**20, "G": 2**30, "T": 2**40}
  return (
    int(float(number) * powers[unit]),
    int(float(limit) * powers[limit_unit]),
  )


def _cpus(count: int) -> list[jax.Device]:
  # Only a process that has not yet used its devices can have more of them.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", count)
  devices = jax.devices("cpu")
  if len(devices) < count:
    raise UserError(
      f"--topology=cpu:{count}: this process has {len(devices)} CPU device(s); "
      f"set JAX_NUM_CPU_DEVICES={count}."
    )
  return devices[:count]
