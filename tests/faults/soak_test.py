"""One run, killed at 100 random moments (or SOAK of them): exact after each.

A server that has the imports done forks the processes of the run, which are
otherwise like any other; none of it has touched a device before.
"""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import running

from time_jax.cli import main

KILLS = int(os.environ.get("SOAK", "100"))
PART = 20  # kills in one test
STEPS = 8 * KILLS + 40
FLAGS = (
  f"--config.train.num_steps={STEPS}",
  "--config.checkpoint.every=5",
  "--config.checkpoint.keep_every=1000",
  "--config.eval.every=50",
  "--config.student.dropout=0.1",
  "--config.student.attention_dropout=0.1",
)
_context = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def server():
  patch = pytest.MonkeyPatch()
  for name, value in running.environment().items():
    patch.setenv(name, value)
  _context.set_forkserver_preload(
    ["time_jax.run.distill", "time_jax.cli.commands"]
  )
  yield
  patch.undo()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp("soak")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
  """The same run, left alone."""
  workdir = tmp_path_factory.mktemp("whole")
  process = start(tiny, workdir)
  process.join(280)
  assert process.exitcode == 0
  return workdir


def session(arguments, log):
  with open(log, "ab", buffering=0) as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  os._exit(main.main(arguments))


def start(tiny, workdir):
  arguments = running.command(tiny, workdir, *FLAGS)
  process = _context.Process(
    target=session, args=(arguments, workdir / "log.txt")
  )
  process.start()
  return process


def newest(workdir):
  found = (workdir / "checkpoints").glob("[0-9]*")
  return max((int(p.name) for p in found if p.name.isdecimal()), default=0)


def check(workdir, whole):
  """All that it has recorded until now is what the other one did."""
  found, expected = running.losses(workdir), running.losses(whole)
  assert sorted(found) == list(range(1, len(found) + 1))
  assert found == {step: expected[step] for step in found}
  return len(found)


@pytest.mark.parametrize("part", range(-(-KILLS // PART)))
def test_killed(tiny, workdir, whole, note, part):
  random = np.random.default_rng()
  began, early, kills = time.monotonic(), 0, min(PART, KILLS - part * PART)
  for _ in range(kills):
    before, times = newest(workdir), begun(workdir)
    process = start(tiny, workdir)
    if random.random() < 0.2:  # While it starts.
      early += 1
      time.sleep(random.uniform(0, 4))
    else:
      moment = min(before + random.integers(1, 20), STEPS - 20)
      while begun(workdir) == times or running.last_step(workdir) < moment:
        assert process.is_alive(), (workdir / "log.txt").read_text()[-3000:]
        time.sleep(0.002)
      time.sleep(random.uniform(0, 0.05))
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert newest(workdir) >= before
    reached = check(workdir, whole)
  seconds = (time.monotonic() - began) / kills
  outcome = f"{early} while starting; at step {reached}, all steps exact"
  note(f"soak: {kills} random kill -9", outcome, 137, seconds)


def begun(workdir):
  """How often it has begun to make steps: its record is then of this start."""
  log = workdir / "log.txt"
  words = ("starting at step", "continuing after step")
  text = log.read_text() if log.exists() else ""
  return sum(map(text.count, words))


def test_in_the_end_it_is_bit_equal(tiny, workdir, whole, note):
  began = time.monotonic()
  process = start(tiny, workdir)
  process.join(280)
  assert process.exitcode == 0, (workdir / "log.txt").read_text()[-3000:]
  assert check(workdir, whole) == STEPS
  running.assert_same_state(
    running.saved(workdir, STEPS), running.saved(whole, STEPS)
  )
  seconds = time.monotonic() - began
  note(f"soak: after {KILLS} kills", "bit-equal to the other", 0, seconds)
