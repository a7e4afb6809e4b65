"""Joules of a device between two moments, where it counts them itself.

NVIDIA GPUs count through NVML, CPUs of Intel and AMD through RAPL where the
system lets it be read; a virtual machine mostly does not. TPUs tell nothing:
of them time on a chip is what can be counted.
"""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

_POWERCAP = pathlib.Path("/sys/class/powercap")
NOT_HERE = "not measurable here"


@dataclasses.dataclass(frozen=True)
class Meter:
  """A counter of energy.

  Attributes:
    method: what counts, and of what; or why nothing does.
    start: begins a measurement; what it returns tells the joules since then.
      None: nothing counts.
  """

  method: str
  start: Callable[[], Callable[[], float]] | None = None


def make_meter(platform: str, *, powercap: pathlib.Path = _POWERCAP) -> Meter:
  """The meter for devices of a kind.

  Args:
    platform: cpu, gpu or tpu, as JAX calls it.
    powercap: where Linux keeps RAPL.
  """
  if platform == "gpu":
    return _nvml()
  if platform == "cpu":
    return _rapl(powercap)
  return Meter(f"{NOT_HERE}: a {platform} does not tell; see chip-seconds")


def _nvml() -> Meter:
  try:
    nvml = importlib.import_module("pynvml")
  except ImportError:
    return Meter(
      f"{NOT_HERE}: NVML needs pip install -e '.[energy]' in the repository"
    )
  try:
    nvml.nvmlInit()
    device = _device(nvml)
    nvml.nvmlDeviceGetTotalEnergyConsumption(device)
  except nvml.NVMLError as error:
    return Meter(f"{NOT_HERE}: NVML says {error}")

  def joules() -> float:
    return nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1e3

  def start() -> Callable[[], float]:
    before = joules()
    return lambda: joules() - before

  return Meter("NVML, the whole GPU", start)


def _device(nvml: object) -> object:
  """The first GPU that CUDA shows, which it may number as it likes."""
  library: Any = nvml
  name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
  if name.startswith(("GPU-", "MIG-")):
    return library.nvmlDeviceGetHandleByUUID(name)
  return library.nvmlDeviceGetHandleByIndex(int(name or 0))


def _rapl(powercap: pathlib.Path) -> Meter:
  def read(name: str) -> list[int]:
    return [int((zone / name).read_text()) for zone in zones]

  try:
    # A package is intel-rapl:N, on AMD too; what is inside has a further ":M".
    zones = [
      zone
      for zone in sorted(powercap.glob("intel-rapl:*"))
      if zone.name.count(":") == 1
      and (zone / "name").read_text().startswith("package")
    ]
    read("energy_uj")
    ranges = [most + 1 for most in read("max_energy_range_uj")]
  except OSError as error:
    reason = f"{error.strerror}: {error.filename}"
    return Meter(f"{NOT_HERE}: RAPL cannot be read ({reason})")
  if not zones:
    return Meter(f"{NOT_HERE}: the system shows no RAPL (powercap)")

  def start() -> Callable[[], float]:
    before = read("energy_uj")

    def joules() -> float:
      # A counter starts again at 0 behind its range, within minutes at least.
      differences = zip(read("energy_uj"), before, ranges, strict=True)
      return sum((b - a) % whole for b, a, whole in differences) / 1e6

    return joules

  return Meter("RAPL, all CPU packages", start)
