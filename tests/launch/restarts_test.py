"""What the launchers start again, and what is final for them."""

import os
import signal
import subprocess
import time

import pytest
import yaml
from launching import ROOT, launch

from time_jax.core import errors


@pytest.fixture
def program(tmp_path):
  """Stands for Python: ends with the codes it is given, one each time."""

  def make(*codes):
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    path = tmp_path / "python"
    path.write_text(
      f"#!/bin/sh\ncd {tmp_path}\necho started >>starts\n"
      "code=$(head -n 1 codes)\nsed -i 1d codes\n"
      '[ "$code" != wait ] || { trap "exit 42" TERM; while :; do sleep 0.05;'
      ' done; }\n[ "$code" -lt 200 ] || kill -9 $$\nexit "$code"\n'
    )
    path.chmod(0o755)
    return {"PYTHON": str(path), "RESTART_WAIT": "0"}

  return make


def starts(tmp_path):
  return (tmp_path / "starts").read_text().count("started")


@pytest.mark.parametrize(
  ("codes", "more", "code", "times"),
  [
    ([0], {}, 0, 1),
    ([42, 200, 134, 0], {}, 0, 4),
    ([42, 42, 42], {"MAX_RESTARTS": "1"}, 42, 2),
    ([42, 0], {"MAX_RESTARTS": "0"}, 42, 1),
    ([errors.EXIT_BAD_INPUT, 0], {}, 2, 1),
    ([42, errors.EXIT_RUN_FAILED, 0], {}, 3, 2),
    ([1, 0], {}, 1, 1),
    ([errors.EXIT_PIPE, 0], {}, errors.EXIT_PIPE, 1),
    ([errors.EXIT_INTERRUPTED, 0], {}, errors.EXIT_INTERRUPTED, 1),
  ],
)
def test_a_worker_starts_again_what_that_helps(
  tmp_path, program, codes, more, code, times
):
  done = launch("worker.sh", "distill", **program(*codes), **more)
  assert done.returncode == code, done.stderr
  assert starts(tmp_path) == times


def test_a_worker_that_is_stopped_passes_it_on_and_ends(tmp_path, program):
  process = subprocess.Popen(
    [ROOT / "launch" / "worker.sh", "distill"],
    env={**os.environ, **program("wait", 0)},
  )
  while not (tmp_path / "starts").exists():
    time.sleep(0.01)
  time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 42
  assert starts(tmp_path) == 1


def test_a_worker_that_is_stopped_before_a_start_ends(tmp_path, program):
  sleep = tmp_path / "sleep"
  sleep.write_text("#!/bin/sh\nkill -TERM $PPID\n")
  sleep.chmod(0o755)
  path = f"{tmp_path}:/usr/bin:/bin"
  done = launch("worker.sh", "distill", PATH=path, **program(42, 0))
  assert done.returncode == 42, done.stderr
  assert starts(tmp_path) == 1


@pytest.mark.parametrize(
  ("code", "count", "requeued"),
  [
    *((42, 0, True), (137, 0, True), (42, 50, False), (2, 0, False)),
    *((0, 0, False), (130, 0, False), (141, 0, False)),
  ],
)
def test_slurm_requeues_what_that_helps(tmp_path, code, count, requeued):
  srun = f"echo cores $SRUN_CPUS_PER_TASK; exit {code}"
  for name, text in (("srun", srun), ("scontrol", "echo $0 $*")):
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
  done = launch(
    "slurm.sbatch",
    "distill",
    PATH=f"{tmp_path}:/usr/bin:/bin",
    SLURM_JOB_ID="17",
    SLURM_CPUS_PER_TASK="6",
    SLURM_RESTART_COUNT=str(count),
    SLURM_SUBMIT_DIR=str(ROOT),
  )
  assert done.returncode == code, done.stderr
  assert ("scontrol requeue 17" in done.stdout) == requeued
  assert "cores 6\n" in done.stdout


def test_the_jobset_ends_where_a_restart_does_not_help():
  text = (ROOT / "launch" / "jobset.yaml").read_text()
  jobset = yaml.safe_load(text)
  (replicated,) = jobset["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  (rule,) = job["podFailurePolicy"]["rules"]
  final = {
    *(errors.EXIT_BUG, errors.EXIT_BAD_INPUT, errors.EXIT_RUN_FAILED),
    *(errors.EXIT_INTERRUPTED, errors.EXIT_PIPE),
  }
  assert set(rule["onExitCodes"]["values"]) == final
  assert errors.EXIT_PREEMPTED not in final
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # Which podFailurePolicy requires.
  (container,) = pod["containers"]
  assert container["name"] == rule["onExitCodes"]["containerName"]
  assert (ROOT / container["command"][0]).exists()
  name = jobset["metadata"]["name"]
  (address,) = [
    e["value"]
    for e in container["env"]
    if e["name"] == "JAX_COORDINATOR_ADDRESS"
  ]
  assert address == f"{name}-{replicated['name']}-0-0.{name}:6002"
