"""Runs of `python -m time_jax` in processes of their own, to be disturbed."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[2]


def environment(**more):
  keep = {k: v for k, v in os.environ.items() if not k.startswith("TIME_JAX")}
  return keep | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHON": sys.executable,
    "USE_TORCH": "0",  # Of transformers: its import is half of a short run.
    **more,
  }


def command(tiny, workdir, *flags):
  recipe = f"--config={ROOT}/tests/support/tiny_recipe.py:{tiny}"
  return ["distill", recipe, f"--workdir={workdir}", *flags]


def start(arguments, processes=1, **more):
  if processes == 1:
    module = more.get("MODULE", "time_jax")
    words = [sys.executable, "-m", module, *arguments]
  else:
    launcher = str(ROOT / "launch" / "local_processes.sh")
    words = [launcher, str(processes), *arguments]
  return subprocess.Popen(
    words,
    cwd=ROOT,
    env=environment(**more),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def run(arguments, processes=1, **more):
  """Runs to the end; (exit code, output)."""
  process = start(arguments, processes, **more)
  output, _ = process.communicate(timeout=240)
  return process.returncode, output


def recover(arguments, workdir, processes=1, **more):
  """Runs to the end; (exit code, output, seconds until a step is new)."""
  before, start_time = last_step(workdir), time.monotonic()
  process = start(arguments, processes, **more)
  while process.poll() is None and last_step(workdir) <= before:
    time.sleep(0.01)
  seconds = time.monotonic() - start_time
  output, _ = process.communicate(timeout=280)
  return process.returncode, output, seconds


def disturbed(arguments, faults, processes=1, victim=0, **more):
  """Runs with faults built in, see faults/disturbed.py; (code, output)."""
  words = {"FAULTS": faults, "VICTIM": str(victim)}
  module = {"MODULE": "tests.faults.disturbed"}
  return run(arguments, processes, **words, **module, **more)


def stop_at(process, workdir, step, kind=signal.SIGKILL):
  """Sends a signal once the run has recorded a step; (exit code, output)."""
  wait_for(process, workdir, step)
  os.killpg(process.pid, kind)
  output, _ = process.communicate(timeout=120)
  return process.returncode, output


def wait_for(process, workdir, step):
  """Returns once the run has recorded a step."""
  deadline = time.monotonic() + 240
  while last_step(workdir) < step:
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.002)


def processes_of(launcher):
  """Index -> process id of a run's processes, whose launcher is given."""
  found = {}
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):
      parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
      if int(parent) == launcher.pid:
        environ = (folder / "environ").read_text().split("\0")
        (index,) = [e for e in environ if e.startswith("TIME_JAX_PROCESS_ID=")]
        found[int(index[-1])] = int(folder.name)
  return found


def scores(folder):
  """What `finetune` found, without how long it took."""
  found = json.loads((folder / "scores.json").read_text())
  assert found.pop("seconds") > 0
  return found


def wait_until_gone(pid, seconds):
  """Returns once a process has ended, whether anyone asked how or not."""
  deadline = time.monotonic() + seconds
  stat = pathlib.Path(f"/proc/{pid}/stat")
  while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
    assert time.monotonic() < deadline
    time.sleep(0.05)


def last_step(workdir):
  rows = metrics(workdir)
  return max((row["step"] for row in rows if "train/loss" in row), default=-1)


def metrics(workdir):
  path = workdir / "metrics.jsonl"
  rows = []
  if path.exists():
    for line in path.read_text().splitlines():
      with contextlib.suppress(ValueError):
        rows.append(json.loads(line))
  return rows


def losses(workdir):
  """step -> (loss, checksum of the global batch)."""
  return {
    row["step"]: (row["train/loss"], row["data/checksum"])
    for row in metrics(workdir)
    if "train/loss" in row
  }


def saved(workdir, step, more=()):
  """All arrays of a checkpoint."""
  folder = workdir / "checkpoints" / str(step)
  return arrays(folder, ("params", "rest", *more))


def arrays(folder, items):
  """(item, keys in its tree) -> array."""
  leaves, reader = {}, ocp.PyTreeCheckpointer()
  for part in items:
    place = (folder / part).absolute()
    # On no device: those of the run may not be here.
    wanted = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
      dict(reader.metadata(place).item_metadata.tree),
    )
    tree = reader.restore(place, ocp.args.PyTreeRestore(restore_args=wanted))
    for path, leaf in ocp.tree.to_flat_dict(tree).items():
      leaves[(part, *path)] = np.asarray(leaf)
  return leaves


def assert_same_state(a, b):
  assert a.keys() == b.keys() and a
  for path, leaf in a.items():
    np.testing.assert_array_equal(leaf, b[path], err_msg=str(path))
