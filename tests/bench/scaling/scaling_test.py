"""The scaling report: its arithmetic, its measurements, what it refuses."""

import json

import pytest
import small_run
from here import Here

from time_jax.bench.scaling import measurement, points, scaling
from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.parallel import launcher_env


def test_rows_of_both_modes():
  config = small_run.make_config(train__global_batch_size=24)
  assert points.rows_for(config, [1, 2, 4], "strong") == {1: 24, 2: 24, 4: 24}
  assert points.rows_for(config, [1, 2, 4], "weak") == {1: 6, 2: 12, 4: 24}
  with pytest.raises(UserError, match=r"=24 .* devices, 5; the next .* is 25"):
    points.rows_for(config, [1, 5], "weak")


@pytest.mark.parametrize(
  ("count", "fields", "mesh"),
  [
    (1, dict(mesh__fsdp=4, mesh__tensor=2), (1, 1, 1)),
    (2, dict(mesh__fsdp=4, mesh__tensor=2), (1, 1, 2)),
    (8, dict(mesh__fsdp=4, mesh__tensor=2), (1, 4, 2)),
    (16, dict(mesh__fsdp=4, mesh__tensor=2), (2, 4, 2)),
    (6, dict(mesh__fsdp=4), (3, 2, 1)),
    (6, dict(mesh__fsdp=-1, mesh__data=1), (1, 6, 1)),
    (4, dict(), (4, 1, 1)),
  ],
)
def test_meshes_of_fewer_devices(count, fields, mesh):
  config = points.config_for(small_run.make_config(**fields), count, rows=5)
  assert config.train.global_batch_size == 5
  assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == mesh


def record(count, rows, seconds, sent=0):
  return {
    "platform": "tpu",
    "date": "2026-11-22T00:00:00+00:00",
    "hardware": {"kind": "TPU", "host_cores": 8},
    "software": {"jax": "0.10.2"},
    "devices": count,
    "processes": 1,
    "mesh": {"data": count, "fsdp": 1, "tensor": 1},
    "rows": rows,
    "tokens": rows * 10,
    "step_seconds": seconds,
    "collectives": [
      {"kind": "all-reduce", "count": 3, "payload": sent, "sent": sent}
    ],
  }


def test_efficiency():
  """Tokens/s of n devices over n times those of one; medians of all rounds."""
  found = {
    2: [record(2, 4, [1.0, 1.0]), record(2, 4, [1.0, 9.0])],
    8: [record(8, 16, [2.0, 2.5, 1.5], sent=70)],
  }
  two, eight = points.points_of("weak", found)
  assert (two.tokens_per_second, two.efficiency) == (40.0, 1.0)
  assert (two.fastest, two.seconds, two.slowest) == (1.0, 1.0, 9.0)
  assert eight.tokens_per_second == 80.0
  assert eight.efficiency == 80 / (8 * 20) == 0.5
  assert eight.sent == 70


def test_what_is_written(capsys, monkeypatch, tmp_path):
  """Each number is measured once a round, up and then down."""
  asked = []

  def measure(config, count, steps, *, one_process_each):
    rows = config.train.global_batch_size
    asked.append((count, rows, steps, one_process_each))
    return record(count, rows, [rows / count] * steps, sent=count)

  monkeypatch.setattr(scaling, "measure_apart", measure)
  files = {name: tmp_path / name for name in ("json", "markdown", "plot")}
  words = [f"--{name}={file}" for name, file in files.items()]
  words += ["--devices=4,1,2", "--steps=3", "--repeats=2"]
  code = main.main(["bench", "scaling", *small_run.flags(), *words])
  output = capsys.readouterr()
  assert code == 0 and not output.err
  up = [(1, 4), (1, 16), (2, 8), (2, 16), (4, 16)]
  assert [job[:2] for job in asked] == up + up[::-1]
  assert all(job[2:] == (3, False) for job in asked)
  title = "TPU, tpu devices, 8 host cores, jax 0.10.2, 2026-11-22"
  assert title in output.out and "Note:" not in output.out
  rows = [x.split() for x in output.out.splitlines() if x.startswith("weak")]
  assert [row[1] for row in rows] == ["1", "2", "4"]
  assert all("100%" in row for row in rows)
  content = json.loads(files["json"].read_text())
  assert content["schema"] == "time_jax.bench.scaling/1"
  same = {"1": 1, "2": 1, "4": 1}
  assert content["scaling"] == {
    "base_n": 1,
    "efficiency_weak": same,
    "efficiency_strong": same,
  }
  strong = [p for p in content["points"] if p["mode"] == "strong"]
  assert [p["devices"] for p in strong] == [1, 2, 4]
  assert len(content["measurements"]) == 10
  table = files["markdown"].read_text().splitlines()
  assert table[0] == title
  assert len([line for line in table if line.startswith("| ")]) == 2 + 6
  assert files["plot"].read_bytes().startswith(b"\x89PNG")


def test_a_measurement():
  config = small_run.make_config(mesh__fsdp=2)
  found = measurement.measure(config, 2, 2)
  assert found["devices"] == 2 and found["platform"] == "cpu"
  assert found["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1}
  assert found["tokens"] == 16 * 128
  assert len(found["step_seconds"]) == 2 and min(found["step_seconds"]) > 0
  assert found["temporary_bytes"] > 0
  sent = {one["kind"]: one["sent"] for one in found["collectives"]}
  assert sent["all-gather"] > 0 and sent["all-reduce"] > 0
  with pytest.raises(
    UserError, match=r"--devices=9 does not fit 8 device\(s\)"
  ):
    measurement.measure(config, 9, 2)


@pytest.mark.slow
def test_processes_of_their_own(capsys, monkeypatch):
  """Two processes, started by the launcher, do a step together."""
  for name, value in {
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(small_run.ROOT / ".cache" / "xla"),
  }.items():
    monkeypatch.setenv(name, value)
  monkeypatch.chdir(small_run.ROOT)
  words = "--devices=2 --processes --mode=strong --steps=2 --repeats=1"
  code = main.main(["bench", "scaling", *small_run.flags(), *words.split()])
  output = capsys.readouterr()
  assert code == 0, output.err
  assert "cpu devices in 2 processes" in output.out
  (row,) = (x for x in output.out.splitlines() if x.startswith("strong"))
  assert row.split()[1:3] == ["2", "16"] and "100%" in row
  assert "data=2 fsdp=1 tensor=1: " in output.out
  assert "all-reduce" in output.out
  assert "say nothing about hardware" in output.out


def test_each_process_is_told_its_place(monkeypatch):
  """And so is one that has all devices; the first one's result counts."""
  environments, asked = [], []

  class Child(Here):
    def __init__(self, make, *arguments, environment):
      environments.append(environment)

    def send(self, *words):
      asked.append(words)

    def receive(self):
      return len(asked)

  monkeypatch.setattr(measurement, "ChildProcess", Child)
  config = small_run.make_config()
  for one_process_each in (False, True):
    measurement.measure_apart(config, 2, 5, one_process_each=one_process_each)
  devices = [e["JAX_NUM_CPU_DEVICES"] for e in environments]
  assert devices == ["2", "1", "1"]
  first, second = (launcher_env.detect(e) for e in environments[1:])
  assert (first.process_id, second.process_id) == (0, 1)
  assert first.num_processes == second.num_processes == 2
  assert first.coordinator_address == second.coordinator_address
  assert asked == [("join_and_measure", config.to_dict(), 2, 5)] * 3


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--devices=two"], "--devices=two: expected a whole number"),
    (["--devices=1,0"], "--devices=1,0: expected a whole number"),
    (["--devices=1,3"], "the largest number of devices, 3"),
    (["--devices=2", "--mode=sideways"], "--mode=sideways"),
    (["--devices=2", "--plot=/not/there.png"], "--plot=/not/there.png"),
    ([], "bench scaling needs --devices"),
  ],
)
def test_what_is_refused(capsys, words, message):
  assert main.main(["bench", "scaling", *small_run.flags(), *words]) == 2
  output = capsys.readouterr()
  (line,) = output.err.splitlines()
  assert message in line and not output.out
