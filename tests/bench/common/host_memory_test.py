"""The peak of this program, and not of the one that started it."""

from time_jax.bench.common.host_memory import host_peak


def test_the_peak_is_read_where_linux_tells_it(tmp_path):
  status = tmp_path / "status"
  status.write_text("VmPeak:\t  90 kB\nVmHWM:\t    7 kB\nVmRSS:\t 5 kB\n")
  assert host_peak(status) == 7 * 1024
  status.write_text("Name:\tpython\n")
  before = host_peak(status)
  assert host_peak(tmp_path / "none") >= before > 10e6
