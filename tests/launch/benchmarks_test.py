"""launch/benchmarks.sh: what it measures, in which time, and what is kept."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from time_jax.cli import main
from time_jax.cli.commands import COMMANDS

ROOT = pathlib.Path(__file__).parents[2]
# Stands for Python: writes down what it is told, and ends as `ends` says.
PYTHON = """#!/bin/sh
[ "$1" != -c ] || { echo "$PLATFORM"; exit; }
printf '%s\\037' "$@" >> "$LOG/calls"
echo >> "$LOG/calls"
for word; do
  case $word in
    --json=*) echo '{}' > "${word#--json=}" ;;
    --workdir=*) mkdir -p "${word#--workdir=}/data"
                 echo '{}' > "${word#--workdir=}/data/manifest.json" ;;
  esac
done
echo "measured $4"
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""
TIMEOUT = '#!/bin/sh\necho "$1 $2 $3" >> "$LOG/limits"\nshift 3\nexec "$@"\n'


@pytest.fixture
def measure(tmp_path):
  """Runs the script; gives it, the commands, their limits and OUT."""
  for name, text in (("python", PYTHON), ("timeout", TIMEOUT)):
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)

  def run(platform, fails="none of them", **variables):
    done = subprocess.run(
      [ROOT / "launch" / "benchmarks.sh", tmp_path / "out"],
      env={
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "LOG": str(tmp_path),
        "PLATFORM": platform,
        "FAILS": fails,
        **variables,
      },
      capture_output=True,
      text=True,
      timeout=60,
    )
    lines, limits = (
      path.read_text().splitlines() if path.exists() else []
      for path in (tmp_path / "calls", tmp_path / "limits")
    )
    calls = [line.split("\037")[:-1] for line in lines]
    return done, calls, [line.split() for line in limits], tmp_path / "out"

  return run


def test_on_an_accelerator_one_call_of_ten_minutes_is_enough(measure):
  done, calls, limits, out = measure("gpu")
  assert done.returncode == 0, done.stdout
  assert [call[:4] for call in calls] == [
    ["-m", "time_jax", "bench", "compare"],
    ["-m", "time_jax", "bench", "relations"],
    ["-m", "time_jax", "prepare", "--config=configs/quickstart.py"],
    ["-m", "time_jax", "bench", "step"],
    ["-m", "time_jax", "bench", "data"],
  ]
  assert all(words[:2] == ["-k", "5"] for words in limits)
  assert 500 < sum(int(words[2]) for words in limits) <= 560
  compare, _, _, step, _ = calls
  assert {"--size=m,s,xs", "--compile", "--batch_size=256"} < set(compare)
  assert "--dtype=bfloat16" in compare
  assert f"--config.data.folder={out / 'rows' / 'data'}" in step
  for name in ("compare", "relations", "step", "data"):
    assert json.loads((out / f"{name}.json").read_text()) == {}
    assert (out / f"{name}.txt").read_text() == f"measured {name}\n"


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_every_command_is_one(measure, monkeypatch, platform):
  """Flags and recipes are accepted; the work itself is not done."""
  _, calls, _, out = measure(platform)
  done = []
  for name in ("bench compare", "bench relations", "bench step", "bench data"):
    monkeypatch.setattr(COMMANDS[name], "run", lambda self: done.append(self))
  monkeypatch.setattr(
    COMMANDS["prepare"], "run", lambda self: done.append(self)
  )
  monkeypatch.chdir(ROOT)
  for call in calls:
    assert main.main(call[2:]) is None, call
  step = done[3].config
  assert step.data.synthetic_rows == 0
  assert step.data.folder == str(out / "rows" / "data")
  assert step.train.global_batch_size == (4 if platform == "cpu" else 256)


def test_the_environment_of_the_repository_is_found(tmp_path):
  """Its interpreter is run where PYTHON names none."""
  shutil.copytree(ROOT / "launch", tmp_path / "launch")
  script = tmp_path / "launch" / "benchmarks.sh"
  python = tmp_path / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text("#!/bin/sh\necho found >&2\nexit 9\n")
  python.chmod(0o755)
  done = subprocess.run(
    ["sh", script, tmp_path / "out"],
    env={"PATH": os.environ["PATH"]},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (2, "found\n")


def test_one_that_fails_is_told_and_the_others_are_measured(measure):
  done, calls, _, _ = measure("gpu", fails="bench relations")
  assert done.returncode == 1 and len(calls) == 5
  assert "   ended with 3\nmeasured relations\n" in done.stdout


def test_what_there_is_no_time_for_is_left_out(measure):
  done, calls, _, _ = measure("gpu", BUDGET="10")
  assert done.returncode == 1
  assert [call[3] for call in calls] == ["compare", "relations", "step"]
  assert "left out: the budget of 10 seconds is spent" in done.stdout
