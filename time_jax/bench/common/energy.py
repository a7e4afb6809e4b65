"""Energy counters of devices.

NVIDIA GPUs count energy through NVML, CPUs of Intel and AMD through RAPL if the
system lets it be read; a virtual machine mostly does not. TPUs have no counter:
for them, chip time is reported.
"""

import dataclasses
import importlib
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

_POWERCAP = pathlib.Path("/sys/class/powercap")
NOT_HERE = "not measurable here"


@dataclasses.dataclass(frozen=True)
class Meter:
  """An energy counter.

  Attributes:
    method: name of the counter and of what it covers; or why there is none.
    start: starts a measurement and returns a function that returns the joules
      since then; None: there is no counter.
  """

  method: str
  start: Callable[[], Callable[[], float]] | None = None

  def measure(
    self, work: Callable[[], object], at_least: float
  ) -> dict[str, Any]:
    """Measures the energy of some work, which is done again and again.

    Args:
      work: does the work once.
      at_least: seconds to measure for, because a counter moves in steps.

    Returns:
      "method"; and, where there is a counter, "joules" and "seconds" of doing
      the work once.
    """
    if self.start is None:
      return {"method": self.method}
    joules, start, times = self.start(), time.perf_counter(), 0
    while time.perf_counter() - start < at_least:
      work()
      times += 1
    taken = time.perf_counter() - start
    return {
      "method": self.method,
      "joules": joules() / times,
      "seconds": taken / times,
    }


def make_meter(platform: str, *, powercap: pathlib.Path = _POWERCAP) -> Meter:
  """Returns the meter for devices of a platform.

  Args:
    platform: cpu, gpu or tpu, as JAX calls it.
    powercap: folder in which Linux shows RAPL.
  """
  if platform == "gpu":
    return _nvml()
  if platform == "cpu":
    return _rapl(powercap)
  return Meter(f"{NOT_HERE}: a {platform} does not tell; see chip-seconds")


def _nvml() -> Meter:
  try:
    nvml: Any = importlib.import_module("pynvml")
  except ImportError:
    return Meter(
      f"{NOT_HERE}: NVML needs pip install -e '.[energy]' in the repository"
    )
  try:
    nvml.nvmlInit()
    # The first GPU that CUDA shows.
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if name.startswith(("GPU-", "MIG-")):
      device = nvml.nvmlDeviceGetHandleByUUID(name)
    else:
      device = nvml.nvmlDeviceGetHandleByIndex(int(name or 0))
    nvml.nvmlDeviceGetTotalEnergyConsumption(device)
  except nvml.NVMLError as error:
    return Meter(f"{NOT_HERE}: NVML says {error}")

  def joules() -> float:
    return nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1e3

  def start() -> Callable[[], float]:
    before = joules()
    return lambda: joules() - before

  return Meter("NVML, the whole GPU", start)


def _rapl(powercap: pathlib.Path) -> Meter:
  def read(name: str) -> list[int]:
    return [int((zone / name).read_text()) for zone in zones]

  try:
    # A package is intel-rapl:N, on AMD too; its parts have a further ":M".
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
      # A counter wraps around after its range, in minutes at the earliest.
      differences = zip(read("energy_uj"), before, ranges, strict=True)
      return sum((b - a) % whole for b, a, whole in differences) / 1e6

    return joules

  return Meter("RAPL, all CPU packages", start)
