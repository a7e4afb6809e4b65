"""Meters of energy, with counters that the tests move."""

import sys
import types

import pytest

from time_jax.bench.common import energy


@pytest.fixture
def powercap(tmp_path):
  """Two packages and a core inside the first."""
  for zone, name in (
    ("intel-rapl:0", "package-0"),
    ("intel-rapl:0:0", "core"),
    ("intel-rapl:1", "package-1"),
    ("intel-rapl:2", "psys"),
  ):
    (tmp_path / zone).mkdir()
    (tmp_path / zone / "name").write_text(f"{name}\n")
    (tmp_path / zone / "energy_uj").write_text("5000000\n")
    (tmp_path / zone / "max_energy_range_uj").write_text("9999999\n")
  return tmp_path


def test_packages_are_added_and_counters_wrap_around(powercap):
  meter = energy.make_meter("cpu", powercap=powercap)
  assert meter.method == "RAPL, all CPU packages"
  since = meter.start()
  assert since() == 0
  for zone, count in (("0", 7_500_000), ("0:0", 9), ("1", 1_000_000)):
    (powercap / f"intel-rapl:{zone}" / "energy_uj").write_text(f"{count}\n")
  # 2.5 J of one; of the other 5 J to the end of 10 J, and 1 J more.
  assert since() == pytest.approx(2.5 + 6)
  (powercap / "intel-rapl:1" / "energy_uj").write_text("2000000\n")
  assert since() == pytest.approx(2.5 + 7)


def test_why_a_cpu_is_not_measured(powercap, tmp_path):
  (tmp_path / "none").mkdir()
  meter = energy.make_meter("cpu", powercap=tmp_path / "none")
  assert meter.start is None
  assert meter.method.startswith("not measurable here: the system shows no")
  (powercap / "intel-rapl:1" / "energy_uj").unlink()
  meter = energy.make_meter("cpu", powercap=powercap)
  assert meter.start is None
  assert "RAPL cannot be read (No such file" in meter.method


class NVMLError(Exception):
  pass


@pytest.fixture
def nvml(monkeypatch):
  """A library with two GPUs, whose millijoules are in `counts`."""
  library = types.SimpleNamespace(
    counts={0: 1000, "GPU-b": 7000},
    NVMLError=NVMLError,
    nvmlInit=lambda: None,
    nvmlDeviceGetHandleByIndex=lambda index: index,
    nvmlDeviceGetHandleByUUID=lambda name: name,
  )

  def total(device):
    if device not in library.counts:
      raise NVMLError("Not Supported")
    return library.counts[device]

  library.nvmlDeviceGetTotalEnergyConsumption = total
  monkeypatch.setitem(sys.modules, "pynvml", library)
  return library


@pytest.mark.parametrize(
  ("shown", "device"), [(None, 0), ("0,1", 0), ("GPU-b,0", "GPU-b")]
)
def test_a_gpu_counts_millijoules(nvml, monkeypatch, shown, device):
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  if shown:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
  meter = energy.make_meter("gpu")
  since = meter.start()
  nvml.counts[device] += 2500
  assert since() == pytest.approx(2.5)
  assert meter.method == "NVML, the whole GPU"


def test_why_a_gpu_is_not_measured(nvml, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
  meter = energy.make_meter("gpu")
  assert meter.start is None and "NVML says Not Supported" in meter.method
  monkeypatch.setitem(sys.modules, "pynvml", None)
  meter = energy.make_meter("gpu")
  assert meter.start is None and "'.[energy]'" in meter.method


def test_a_tpu_has_no_meter():
  meter = energy.make_meter("tpu")
  assert meter.start is None and "chip-seconds" in meter.method


def test_counters_that_are_masked(tmp_path, monkeypatch):
  """As in a container: a link that leads nowhere."""
  (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "nowhere")
  meter = energy._rapl(tmp_path)
  assert meter.start is None and energy.NOT_HERE in meter.method
