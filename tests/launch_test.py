"""The launchers: what they would run, what they miss, what they start again."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from time_jax import errors

ROOT = pathlib.Path(__file__).parents[1]
EXPECTED = pathlib.Path(__file__).parent / "launch"
TPU = {
  "NAME": "da-m",
  "PROJECT": "my-project",
  "ZONE": "us-west4-a",
  "TYPE": "v5litepod-16",
  "RUNTIME": "v2-alpha-tpuv5-lite",
}
XPK = {
  "NAME": "da-m",
  "PROJECT": "my-project",
  "ZONE": "us-west4-a",
  "CLUSTER": "pods",
  "DEVICE": "v5litepod-16",
  "IMAGE": "docker.pkg.dev/my-project/images/time_jax:1",
  "STORAGE": "runs",
}
DISTILL = (
  "distill",
  "--config=configs/time.py:lang=da,size=m",
  "--config.data.train=('texts/da 1.jsonl',)",
  "--workdir=/data/runs/da-m",
)
# Name of the expected output -> script, its arguments, its variables.
DRY_RUNS = {
  "tpu_vm_create": ("tpu_vm.sh", ["create"], TPU),
  "tpu_vm_create_spot_slices": (
    "tpu_vm.sh",
    ["create"],
    TPU | {"SLICES": "4", "SPOT": "1"},
  ),
  "tpu_vm_resume_nfs": (
    "tpu_vm.sh",
    ["resume", *DISTILL],
    TPU | {"SPOT": "1", "NFS": "10.0.0.2:/runs"},
  ),
  "tpu_vm_run": ("tpu_vm.sh", ["run", *DISTILL], TPU),
  "tpu_vm_run_export": (
    "tpu_vm.sh",
    ["run", "export", "--workdir=/data/runs/da-m"],
    TPU,
  ),
  "tpu_vm_state": ("tpu_vm.sh", ["state"], TPU),
  "tpu_vm_setup": ("tpu_vm.sh", ["setup"], TPU),
  "tpu_vm_logs": ("tpu_vm.sh", ["logs", "3"], TPU),
  "tpu_vm_stop": ("tpu_vm.sh", ["stop"], TPU),
  "tpu_vm_delete": ("tpu_vm.sh", ["delete"], TPU),
  "gke_xpk_image": ("gke_xpk.sh", ["image"], XPK | {"ACCELERATOR": "cuda13"}),
  "gke_xpk_resume": ("gke_xpk.sh", ["resume", *DISTILL], XPK),
  "gke_xpk_run_gpu": (
    "gke_xpk.sh",
    ["run", *DISTILL],
    XPK | {"DEVICE": "h100-80gb-8", "NODES": "2", "MAX_RESTARTS": "9"},
  ),
  "gke_xpk_list": ("gke_xpk.sh", ["list"], XPK),
  "gke_xpk_logs": ("gke_xpk.sh", ["logs"], XPK),
  "gke_xpk_delete": ("gke_xpk.sh", ["delete"], XPK),
  "slurm": ("slurm.sbatch", DISTILL, {}),
  "worker": ("worker.sh", DISTILL, {"PYTHON": "python3"}),
  "local_processes": (
    "local_processes.sh",
    ["2", *DISTILL],
    {"PYTHON": "python3", "CPU_DEVICES": "4"},
  ),
}


def launch(script, *arguments, **variables):
  """Runs a launcher with nothing but these variables and the basic tools."""
  return subprocess.run(
    [ROOT / "launch" / script, *arguments],
    env={"PATH": "/usr/bin:/bin", **variables},
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_runs_are_as_reviewed(name):
  script, arguments, variables = DRY_RUNS[name]
  done = launch(script, "--dry_run", *arguments, **variables)
  assert done.returncode == 0, done.stderr
  found = done.stdout.replace(str(ROOT), "REPOSITORY")
  assert found == (EXPECTED / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_may_be_asked_for_anywhere(name):
  script, arguments, variables = DRY_RUNS[name]
  expected = (EXPECTED / f"{name}.txt").read_text()
  for place in {1, len(arguments)}:
    words = [*arguments[:place], "--dry_run", *arguments[place:]]
    done = launch(script, *words, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(ROOT), "REPOSITORY") == expected


@pytest.mark.parametrize(
  ("script", "words"),
  [
    *(
      ("tpu_vm.sh", f"{name} --dryrun")
      for name in ("create", "state", "setup", "stop", "delete", "logs")
    ),
    ("tpu_vm.sh", "logs 3 4"),
    *(
      ("gke_xpk.sh", f"{name} --dryrun")
      for name in ("image", "list", "logs", "delete")
    ),
  ],
)
def test_words_that_a_command_does_not_take(tmp_path, script, words):
  for name in ("gcloud", "git", "docker", "xpk", "kubectl"):
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho called >>{tmp_path}/calls\n")
    program.chmod(0o755)
  path = f"{tmp_path}:/usr/bin:/bin"
  done = launch(script, *words.split(), PATH=path, **TPU | XPK)
  assert done.returncode == 2
  last = words.split()[-1]
  assert f" takes no {last}; nothing was done" in done.stderr
  assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("count", ["distill", "0", "-1", "2x", ""])
def test_a_number_of_processes_that_is_none(count):
  done = launch("local_processes.sh", count, "distill", "x", PYTHON="false")
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  shown = count or "''"
  assert line.startswith(f"{shown} is no number of processes; expected 1 or")
  assert line.endswith("local_processes.sh 2 distill x")


@pytest.mark.parametrize("script", ["local_processes.sh", "worker.sh"])
def test_python_of_the_environment_here_is_found(tmp_path, script):
  copy = shutil.copytree(ROOT / "launch", tmp_path / "launch")
  words = ["1", "doctor"] if script == "local_processes.sh" else ["doctor"]

  def called():
    done = subprocess.run(
      [copy / script, "--dry_run", *words],
      env={"PATH": "/usr/bin:/bin"},
      capture_output=True,
      text=True,
    )
    return done.stdout.splitlines()[-1].strip()

  assert called() == "python3 -m time_jax doctor"
  python = tmp_path / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text("#!/bin/sh\n")
  python.chmod(0o755)
  assert called() == f"{python} -m time_jax doctor"


def test_a_dry_run_of_the_benchmarks_makes_nothing(tmp_path):
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\necho cpu\n")
  python.chmod(0o755)
  out = tmp_path / "out"
  for words in (["--dry_run", out], [out, "--dry_run"]):
    done = launch("benchmarks.sh", *words, PYTHON=str(python))
    assert done.returncode == 0 and not out.exists()
    assert f"{python} -m time_jax bench compare --size=m,s,xs" in done.stdout
  for words in (["--dryrun"], [out, "more"], []):
    assert launch("benchmarks.sh", *words, PYTHON=str(python)).returncode == 2
  assert not out.exists()


def test_what_is_printed_can_be_pasted():
  done = launch("tpu_vm.sh", "--dry_run", "run", *DISTILL, **TPU)
  words = subprocess.run(
    ["sh", "-c", f'gcloud() {{ printf "%s\\0" "$@"; }}\n{done.stdout}'],
    capture_output=True,
    text=True,
  ).stdout.split("\0")
  (remote,) = [w for w in words if w.startswith("--command=")]
  start = next(line for line in remote.splitlines() if "nohup" in line)
  assert "distill --config=configs/time.py:lang=da,size=m '--config" in start


@pytest.mark.parametrize(
  ("script", "variables", "programs"),
  [
    ("tpu_vm.sh", TPU, ["gcloud"]),
    ("gke_xpk.sh", XPK, ["docker", "xpk", "kubectl", "gcloud"]),
    ("slurm.sbatch", {"SLURM_JOB_ID": "1"}, ["srun", "scontrol"]),
  ],
)
def test_all_that_is_missing_is_listed_at_once(
  tmp_path, script, variables, programs
):
  for name in ("sh", "dirname"):  # Nothing but these.
    (tmp_path / name).symlink_to(shutil.which(name))
  done = launch(script, "run", "distill", PATH=str(tmp_path))
  assert done.returncode == 2
  for line in (
    *(f"variable {name}" for name in variables),
    *(f"program {name}" for name in programs),
  ):
    assert f"\n  {line}\n" in done.stderr
  assert f"launch/{script} says what each is for" in done.stderr


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke_xpk.sh"])
def test_an_unknown_command_shows_the_help(script):
  variables = TPU | XPK
  done = launch(script, "--dry_run", "destroy", **variables)
  assert done.returncode == 2
  assert "[--dry_run] COMMAND" in done.stdout and "set -u" not in done.stdout


def test_the_help_of_every_launcher_ends_with_its_comment():
  scripts = ("tpu_vm.sh", "gke_xpk.sh", "slurm.sbatch", "worker.sh")
  for script in (*scripts, "local_processes.sh"):
    done = launch(script)
    assert done.returncode == 2
    first = (ROOT / "launch" / script).read_text().splitlines()[1]
    assert done.stdout.startswith(first.removeprefix("# "))
    assert "SBATCH --" not in done.stdout and "set -u" not in done.stdout


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
  [(42, 0, True), (137, 0, True), (42, 50, False), (2, 0, False), (0, 0, 0)],
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
  assert ("scontrol requeue 17" in done.stdout) == bool(requeued)
  assert "cores 6\n" in done.stdout


def test_the_jobset_ends_where_a_restart_does_not_help():
  text = (ROOT / "launch" / "jobset.yaml").read_text()
  jobset = yaml.safe_load(text)
  (replicated,) = jobset["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  (rule,) = job["podFailurePolicy"]["rules"]
  final = {1, errors.EXIT_BAD_INPUT, errors.EXIT_RUN_FAILED}
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


def test_the_image_copies_what_there_is():
  for line in (ROOT / "launch" / "Dockerfile").read_text().splitlines():
    if line.startswith("COPY"):
      for name in line.split()[1:-1]:
        assert (ROOT / name).exists(), name
