"""The launchers: what they would run, and what they miss."""

import pathlib
import shutil
import subprocess

import pytest
from flags_of_commands import FLAGS
from launching import ROOT, launch

EXPECTED = pathlib.Path(__file__).parents[1] / "launch"
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
  "tpu_vm_run_one_host": (
    "tpu_vm.sh",
    ["run", "sweep", "configs/sweep_heads.py", "--workdir=/data/heads"],
    TPU | {"TYPE": "v5litepod-1"},
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


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_runs_are_as_reviewed(name):
  """Wherever --dry_run stands; after `export` it is one of its own flags."""
  script, arguments, variables = DRY_RUNS[name]
  places = {0} if "export" in arguments else {0, 1, len(arguments)}
  for place in places:
    words = [*arguments[:place], "--dry_run", *arguments[place:]]
    done = launch(script, *words, **variables)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace(str(ROOT), "REPOSITORY")
    assert printed == (EXPECTED / f"{name}.txt").read_text()


@pytest.mark.parametrize(
  ("script", "words", "variables"),
  [
    ("worker.sh", [], {}),
    ("local_processes.sh", ["2"], {}),
    ("slurm.sbatch", [], {}),
    ("tpu_vm.sh", ["run"], TPU),
    ("gke_xpk.sh", ["run"], XPK),
  ],
)
def test_a_dry_run_of_an_export_prints_one(script, words, variables):
  """What is pasted must not upload."""
  typed = [*words, "export", "--workdir=W", "--push=a/b"]
  done = launch(script, *typed, "--dry_run", PYTHON="python3", **variables)
  assert done.returncode == 0, done.stderr
  assert "export --workdir=W --push=a/b --dry_run" in done.stdout
  done = launch(script, "--dry_run", *typed, PYTHON="python3", **variables)
  assert done.returncode == 0 and "--push=a/b" in done.stdout
  assert "--dry_run" not in done.stdout


def test_export_alone_has_a_dry_run_of_its_own():
  """`common.sh` knows it by name."""
  own = {name for name, flags in FLAGS.items() if "dry_run" in flags}
  assert own == {"export"}


@pytest.mark.parametrize(
  "variables",
  [{}, {"TYPE": "v6e-16"}, {"TYPE": "v5litepod-8", "SLICES": "2"}],
)
@pytest.mark.parametrize("word", ["run", "resume"])
def test_a_sweep_is_refused_where_it_has_no_tpus(variables, word):
  """A host of several cannot start its TPUs alone."""
  words = ("--dry_run", word, "sweep", "grid.py", "--workdir=W")
  done = launch("tpu_vm.sh", *words, **TPU | variables)
  assert done.returncode == 2 and not done.stdout
  assert "expected a TYPE of one host" in done.stderr


def test_what_runs_on_the_cpu_of_a_slice_says_so():
  words = ("--dry_run", "run", "choose", "--workdir=W")
  done = launch("tpu_vm.sh", *words, **TPU)
  assert "env JAX_PLATFORMS=cpu" in done.stdout
  assert done.stderr.startswith("choose runs on the CPU of the first host")
  for kind in ("v2-8", "v4-8", "v5p-8", "v6e-1", "v5litepod-4"):
    done = launch("tpu_vm.sh", *words, **TPU | {"TYPE": kind})
    assert "JAX_PLATFORMS" not in done.stdout and not done.stderr


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


def test_the_image_copies_what_there_is():
  for line in (ROOT / "launch" / "Dockerfile").read_text().splitlines():
    if line.startswith("COPY"):
      for name in line.split()[1:-1]:
        assert (ROOT / name).exists(), name
