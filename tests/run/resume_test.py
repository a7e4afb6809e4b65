"""A run that nothing can spoil: killed, stopped, moved, it ends the same."""

import json
import os
import re
import shutil
import signal

import alone
import numpy as np
import pytest
import running

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.cli import main
from time_jax.core.storage import lease
from time_jax.telemetry import goodput as telemetry_goodput
from time_jax.telemetry import history

NUM_STEPS = 60
FLAGS = (
  f"--config.train.num_steps={NUM_STEPS}",
  "--config.checkpoint.every=10",
  # Evaluations that are cut off are in stopping_test.
  "--config.data.validation=()",
  # Low enough that what rounding differs by between meshes does not grow.
  "--config.train.peak_lr=1e-3",
  # What one to four processes can share.
  "--config.train.global_batch_size=12",
  # Of a step and seed alone, whoever draws it.
  "--config.student.dropout=0.1",
  "--config.student.attention_dropout=0.1",
)


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed")
  alone.run(*running.command(tiny, workdir, *FLAGS))
  return workdir


@pytest.fixture
def workdir(undisturbed, tmp_path):
  """A run of its own, whose rows are prepared."""
  shutil.copytree(undisturbed / "data", tmp_path / "data")
  return tmp_path


@pytest.fixture
def command(tiny, workdir):
  return running.command(tiny, workdir, *FLAGS)


@pytest.mark.usefixtures("one_process", "one_device")
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_it_ends_bit_equal(
  undisturbed, command, tmp_path, kills, capsys
):
  """And told to stop, which loses no step."""
  random = np.random.default_rng()
  moments = sorted(random.integers(1, NUM_STEPS - 20, size=kills))
  moments[-1] = max(moments[-1], NUM_STEPS // 2)  # Something is saved by then.
  for moment in moments:
    process = running.start(command)
    code, output = running.stop_at(process, tmp_path, moment)
    assert code == -signal.SIGKILL, output
  # What JAX is told of its own service does not make the run deaf.
  more = {"JAX_ENABLE_PREEMPTION_SERVICE": "false"}
  code, output = running.disturbed(command, "step:3:SIGTERM", **more)
  assert code == 42, output
  step = running.last_step(tmp_path)
  assert "continuing after step" in output
  assert f"Stopped by a signal after step {step}" in output
  with CheckpointReader(tmp_path) as checkpoints:
    assert checkpoints.steps()[-1] == step
  assert main.main(command) == 0, moments
  assert f"continuing after step {step}" in "".join(capsys.readouterr())
  running.assert_same_state(
    running.saved(tmp_path, NUM_STEPS), running.saved(undisturbed, NUM_STEPS)
  )
  # The record is that of one run, too, but for the time that was lost.
  sessions = history.read_sessions(tmp_path)
  events = [session["event"] for session in sessions]
  assert events == [*["start"] * kills, *["start", "end"] * 2]
  assert sessions[-1]["code"] == 0
  spent = [row for row in history.read_metrics(tmp_path) if "time/unix" in row]
  for name in ("time/unix", "time/steps", "time/compile"):
    values = [row[name] for row in spent]
    assert values == sorted(values) and values[0] > 0
  total = spent[-1]["time/unix"] - sessions[0]["time"]
  assert (
    sum(spent[-1][f"time/{kind}"] for kind in telemetry_goodput.KINDS) < total
  )
  assert spent[-1]["run/restarts"] == events.count("start") - 1
  goodput = spent[-1]["run/goodput"]
  assert goodput == pytest.approx(spent[-1]["time/steps"] / total, abs=1e-3)
  assert spent[-1]["run/saving"] > spent[0]["run/saving"] >= 0
  assert main.main(["status", str(tmp_path)]) == 0
  told = capsys.readouterr().out
  percent = re.search(r"goodput +([\d.]+)% of ", told)
  # One is rounded twice.
  assert percent and float(percent[1]) == pytest.approx(100 * goodput, abs=0.06)
  assert f"restarts     {spent[-1]['run/restarts']}; last" in told
  assert running.losses(tmp_path) == running.losses(undisturbed)


# Of so many processes.
MESHES = {
  4: ["--config.mesh.fsdp=2"],
  3: ["--config.mesh.fsdp=3"],
  2: ["--config.mesh.tensor=2"],
  1: [],
}


@pytest.mark.usefixtures("one_process", "one_device")
@pytest.mark.parametrize(
  "path", [(2, 1), pytest.param((4, 2, 1, 3), marks=pytest.mark.slow)]
)
def test_moved_to_other_processes(undisturbed, command, tmp_path, path, capsys):
  """Stopped by SIGTERM, which all processes hear of: it loses no step.

  The last process, where it is one alone, is that of the test.
  """
  reached = 0
  # Of this session; afterwards it goes slowly, or it would be over before JAX
  # has heard of the signal.
  fault = f"step:{NUM_STEPS // (len(path) + 1)}:SIGTERM"
  for processes in path[:-1]:
    flags = MESHES[processes]
    code, output = running.disturbed([*command, *flags], fault, processes)
    assert code == 42, output
    assert not reached or f"continuing after step {reached}" in output
    reached = running.last_step(tmp_path)
    assert f"Stopped by a signal after step {reached}" in output
    with CheckpointReader(tmp_path) as checkpoints:
      assert checkpoints.steps()[-1] == reached
  last = path[-1]
  command = [*command, *MESHES[last]]
  if last == 1:
    code, output = main.main(command), "".join(capsys.readouterr())
  else:
    code, output = running.run(command, last)
  assert code == 0, output
  assert f"process 0 of {path[-1]}" in output
  assert f"continuing after step {reached}" in output
  found, expected = running.losses(tmp_path), running.losses(undisturbed)
  assert found.keys() == expected.keys() == set(range(1, NUM_STEPS + 1))
  for step in expected:
    assert found[step][1] == expected[step][1], f"other rows at step {step}"
    assert found[step][0] == pytest.approx(expected[step][0], abs=1e-5), step


@pytest.mark.usefixtures("one_process", "one_device")
def test_another_config_is_refused(undisturbed, tiny, capsys):
  before = running.saved(undisturbed, NUM_STEPS)
  command = running.command(tiny, undisturbed, *FLAGS, "--config.seed=4")
  assert main.main(command) == 2
  output = "".join(capsys.readouterr())
  assert "belongs to another run: seed: 21 then, 4 now" in output
  running.assert_same_state(running.saved(undisturbed, NUM_STEPS), before)
  # What it was tried on stands before what refused it, and in the record.
  first = output.splitlines()[0]
  assert first.startswith("process 0 of 1 (alone), coordinator localhost:")
  assert "8 x cpu, mesh {'data': 1," in first and "orbax-checkpoint" in first
  start, end = history.read_sessions(undisturbed)[-2:]
  assert (start["event"], end["event"], end["code"]) == ("start", "end", 2)
  assert "seed: 21 then, 4 now" in end["why"]
  assert main.main(["status", str(undisturbed)]) == 0
  assert "all steps are done; refused since: " in capsys.readouterr().out


def test_two_runs_do_not_write_one_workdir(tiny, tmp_path, capsys, one_process):
  """The second is refused; the first ends where it was taken for dead."""
  never = [f"--config.{n}=1000000" for n in ("train.num_steps", "eval.every")]
  never += ["--config.checkpoint.every=1000000", "--config.log.every=5"]
  never += ["--config.checkpoint.keep_every=1000000"]
  command = running.command(tiny, tmp_path, *never)
  process = running.start(command)
  running.wait_for(process, tmp_path, 5)
  assert main.main([*command, "--config.train.peak_lr=1e-4"]) == 2
  line = capsys.readouterr().err
  assert f"--workdir={tmp_path} is being written by 'distill --config=" in line
  assert f"(pid {process.pid}, since " in line and line.count("\n") == 1
  assert main.main(["status", str(tmp_path)]) == 0
  running.wait_for(process, tmp_path, running.last_step(tmp_path) + 5)
  os.kill(process.pid, signal.SIGSTOP)
  place = tmp_path / lease.RUN
  content = json.loads(place.read_text()) | {"host": "far", "token": "other"}
  place.write_text(json.dumps(content))
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  os.kill(process.pid, signal.SIGCONT)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 3, output
  assert "was taken over by 'distill --config=" in output
  after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  assert {p.name for p in before.keys() ^ after.keys()} == set()
  changed = {p.name for p in before if before[p] != after[p]}
  assert not {name for name in changed if not name.startswith("events")}


def test_the_others_end_with_one_that_is_killed(command, tmp_path):
  logs = tmp_path / "logs"
  logs.mkdir()
  code, output = running.disturbed(
    [*command, *MESHES[2]], "step:5:SIGKILL", 2, victim=1, LOGS=str(logs)
  )
  assert code in (42, 137), output
  assert "error: process 0 lost another process of the run" in output
