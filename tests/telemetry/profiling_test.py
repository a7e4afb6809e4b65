"""--profile traces the steps that it says, and no others."""

import gzip
import json

import pytest
import running

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.telemetry import profiling

SCOPES = ("teacher", "student", "relations", "optimizer")


def traced_steps(workdir):
  """Steps in the one trace of a run."""
  (path,) = workdir.glob("profile/plugins/profile/*/*.trace.json.gz")
  events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  marked = [event for event in events if event.get("name") == "train"]
  return sorted(int(event["args"]["step_num"]) for event in marked)


def run(tiny, workdir, window, steps=8):
  flags = f"--config.train.num_steps={steps}", f"--profile={window}"
  code, output = running.run(running.command(tiny, workdir, *flags))
  assert code == 0, output
  assert f"trace: {workdir / 'profile'}" in output


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("profiled")
  run(tiny, workdir, "3:6")
  return workdir


def test_the_window_is_traced_with_its_scopes(workdir):
  assert traced_steps(workdir) == [3, 4, 5]
  (path,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
  content = path.read_bytes()
  for scope in SCOPES:
    assert f"/{scope}/".encode() in content or f"({scope})".encode() in content


def test_speed_is_not_recorded_while_tracing(workdir):
  rows = [row for row in running.metrics(workdir) if "train/loss" in row]
  assert [row["step"] for row in rows] == list(range(1, 9))
  # What is pending at a stop (1 and 2; 7 and 8) is one interval.
  fast = {row["step"] for row in rows if "perf/tokens_per_second" in row}
  assert fast == {1, 6, 7}


@pytest.mark.parametrize(
  ("first", "traced"), [(0, (3, 6)), (3, (4, 6)), (4, (5, 6)), (5, ())]
)
def test_where_tracing_turns(tmp_path, first, traced):
  tracer = profiling.Tracer(tmp_path, range(3, 6), first, active=False)
  steps = range(first + 1, 20)
  assert tuple(step for step in steps if tracer.turns(step)) == traced


@pytest.mark.parametrize(
  "text", ["3", "3:", ":3", "0:2", "3:3", "5:3", "a:b", "-1:3", "2:10"]
)
def test_windows_that_are_none(capsys, tiny, tmp_path, text):
  with pytest.raises(UserError, match=f"^--profile={text} is no window"):
    profiling.read_window(text, 8)
  words = running.command(tiny, tmp_path / "run", f"--profile={text}")
  assert main.main([*words, "--config.train.num_steps=8"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    f"time_jax: error: --profile={text} is no window of steps; expected "
    "START:STOP such as 10:15, which traces steps 10 to 14; this run has steps "
    "1 to 8."
  )
  assert not (tmp_path / "run").exists()


def test_the_last_step_can_be_traced():
  assert profiling.read_window("8:9", 8) == range(8, 9)
  assert not profiling.read_window("", 8)
