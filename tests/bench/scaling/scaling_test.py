"""The scaling report: its arithmetic, its measurements, what it refuses."""

import json
import subprocess

import pytest
import small_run

from time_jax.bench.scaling import scaling, worker
from time_jax.cli import main
from time_jax.core.errors import RunError, UserError


def test_rows_of_both_modes():
  config = small_run.make_config(train__global_batch_size=24)
  assert scaling.rows_for(config, [1, 2, 4], "strong") == {1: 24, 2: 24, 4: 24}
  assert scaling.rows_for(config, [1, 2, 4], "weak") == {1: 6, 2: 12, 4: 24}
  with pytest.raises(UserError, match=r"=24 .* devices, 5; the next .* is 25"):
    scaling.rows_for(config, [1, 5], "weak")


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
  found = scaling.mesh_for(small_run.make_config(**fields), count)
  assert (found["data"], found["fsdp"], found["tensor"]) == mesh


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
  two, eight = scaling.points_of("weak", found)
  assert (two.tokens_per_second, two.efficiency) == (40.0, 1.0)
  assert (two.fastest, two.seconds, two.slowest) == (1.0, 1.0, 9.0)
  assert eight.tokens_per_second == 80.0
  assert eight.efficiency == 80 / (8 * 20) == 0.5
  assert eight.sent == 70


def test_what_is_written(capsys, monkeypatch, tmp_path):
  """Each number is measured once a round, up and then down."""
  asked = []

  def measure(config, count, rows, steps, processes):
    asked.append((count, rows, steps, processes))
    return record(count, rows, [rows / count] * steps, sent=count)

  monkeypatch.setattr(scaling, "_measure", measure)
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
  found = worker.measure(config, 2, 2)
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
    worker.measure(config, 9, 2)


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


@pytest.mark.parametrize(
  ("code", "text", "kind", "message"),
  [
    (2, "noise\ntime_jax: error: no room.\nmore", UserError, "^no room.$"),
    (-9, "", RunError, r"^the measurement on 2 device\(s\) ended with code -9"),
  ],
)
def test_a_measurement_that_breaks_off(monkeypatch, code, text, kind, message):
  def end(words, **more):
    return subprocess.CompletedProcess(words, code, "", text)

  monkeypatch.setattr(subprocess, "run", end)
  with pytest.raises(kind, match=message):
    scaling.bench_scaling(small_run.make_config(), [2], mode="strong")


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--devices=two"], "--devices=two: expected whole numbers"),
    (["--devices=1,0"], "--devices=1,0: expected whole numbers"),
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
