"""A run that nothing can spoil: killed, stopped, moved, it ends the same."""

import contextlib
import os
import signal

import numpy as np
import pytest
import running

from time_jax import history, ledger
from time_jax.checkpoint import Checkpoints

NUM_STEPS = 100
FLAGS = (
  f"--config.train.num_steps={NUM_STEPS}",
  "--config.checkpoint.every=10",
  "--config.eval.every=50",
)


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed")
  code, output = running.run(running.command(tiny, workdir, *FLAGS))
  assert code == 0, output
  return workdir


def test_killed_five_times_ends_bit_equal(undisturbed, tiny, tmp_path):
  random = np.random.default_rng()
  moments = sorted(random.integers(1, NUM_STEPS - 20, size=5))
  for moment in moments:
    process = running.start(running.command(tiny, tmp_path, *FLAGS))
    code, output = running.stop_at(process, tmp_path, moment)
    assert code == -signal.SIGKILL, output
  code, output = running.run(running.command(tiny, tmp_path, *FLAGS))
  assert code == 0, f"{moments}: {output}"
  assert "continuing after step" in output
  running.assert_same_state(
    running.saved(tmp_path, NUM_STEPS), running.saved(undisturbed, NUM_STEPS)
  )
  # The record is that of one run, too, but for the time that was lost.
  sessions = history.read_sessions(tmp_path)
  assert [s["event"] for s in sessions] == ["start"] * 6 + ["end"]
  assert sessions[-1]["code"] == 0
  spent = [row for row in history.read_metrics(tmp_path) if "time/unix" in row]
  for name in ("time/unix", "time/steps", "time/compile"):
    values = [row[name] for row in spent]
    assert values == sorted(values) and values[0] > 0
  total = spent[-1]["time/unix"] - sessions[0]["time"]
  assert sum(spent[-1][f"time/{kind}"] for kind in ledger.KINDS) < total
  assert running.losses(tmp_path) == running.losses(undisturbed)


def test_moved_from_two_processes_to_one_to_four(undisturbed, tiny, tmp_path):
  command = running.command(tiny, tmp_path, *FLAGS)
  for processes, moment in ((2, 20), (1, 60)):
    process = running.start(command, processes)
    _, output = running.stop_at(process, tmp_path, moment)
    assert processes == 2 or "continuing after step" in output
  code, output = running.run(command, 4)
  assert code == 0, output
  assert "process 0 of 4" in output and "continuing after step" in output
  found, expected = running.losses(tmp_path), running.losses(undisturbed)
  assert found.keys() == expected.keys() == set(range(1, NUM_STEPS + 1))
  for step in expected:
    assert found[step][1] == expected[step][1], f"other rows at step {step}"
  early = range(1, 21)
  np.testing.assert_allclose(
    [found[s][0] for s in early], [expected[s][0] for s in early], atol=1e-5
  )


def test_another_config_or_teacher_is_refused(undisturbed, tiny):
  for change, words in (
    ("--config.train.peak_lr=1e-3", "train.peak_lr: 0.005 then, 0.001 now"),
    ("--config.seed=4", "seed: 21 then, 4 now"),
  ):
    before = running.saved(undisturbed, NUM_STEPS)
    command = running.command(tiny, undisturbed, *FLAGS, change)
    code, output = running.run(command)
    assert code == 2, output
    assert "belongs to another run" in output and words in output
    running.assert_same_state(running.saved(undisturbed, NUM_STEPS), before)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_the_step_it_stops_at(tiny, tmp_path, processes):
  endless = ["--config.train.num_steps=1000000", "--config.eval.every=500000"]
  command = running.command(tiny, tmp_path, *endless)
  process = running.start(command, processes)
  code, output = running.stop_at(process, tmp_path, 5, signal.SIGTERM)
  assert code == 42, output
  step = running.last_step(tmp_path)
  assert f"Stopped by a signal after step {step}" in output
  with Checkpoints.read_only(tmp_path) as checkpoints:
    assert checkpoints.steps()[-1] == step


@pytest.mark.parametrize(
  "kind",
  [
    signal.SIGKILL,
    pytest.param(signal.SIGSTOP, marks=pytest.mark.slow),  # Of the watchdog.
  ],
)
def test_the_others_end_with_one_that_is_gone(tiny, tmp_path, kind):
  endless = ["--config.train.num_steps=1000000", "--config.eval.every=500000"]
  seconds = 1800 if kind == signal.SIGKILL else 60  # Compiling counts, too.
  watchdog = f"--config.train.watchdog={seconds}"
  command = running.command(tiny, tmp_path, *endless, watchdog)
  (tmp_path / "logs").mkdir()
  process = running.start(command, 2, LOGS=str(tmp_path / "logs"))
  running.wait_for(process, tmp_path, 5)
  victim, other = running.processes_of(process)
  os.kill(victim, kind)
  running.wait_until_gone(other, 200)
  with contextlib.suppress(ProcessLookupError):
    os.kill(victim, signal.SIGKILL)
  output, _ = process.communicate(timeout=60)
  assert process.returncode in (42, 137), output
  words = {
    signal.SIGKILL: "error: process 0 lost another process of the run",
    signal.SIGSTOP: "error: no step for 60 s (train.watchdog)",
  }
  assert words[kind] in output
