"""A run that is traced, and tracked by a stand-in for Weights & Biases."""

import gzip
import json
import sys
import types

import pytest
import running

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.telemetry import history, tracking

KEY = "wandb_v1_0123456789abcdef"


@pytest.fixture
def service(monkeypatch):
  """Its runs: id -> what was done to it."""
  runs = {}

  def init(**given):
    if given["project"] == "closed":
      raise PermissionError(f"bad key {KEY}\nmore")
    name = given.pop("id") or f"id{len(runs)}"
    calls = runs.setdefault(name, [])
    calls.append(("init", given))
    return types.SimpleNamespace(
      id=name,
      define_metric=lambda *names, **how: calls.append(("define", how)),
      log=lambda scalars: calls.append(("log", scalars)),
      finish=lambda exit_code: calls.append(("finish", exit_code)),
    )

  module = types.ModuleType("wandb")
  module.init = init
  module.__spec__ = types.SimpleNamespace()
  monkeypatch.setitem(sys.modules, "wandb", module)
  return runs


def of(calls, kind):
  return [value for name, value in calls if name == kind]


def traced_steps(workdir):
  """Steps in the one trace of a run."""
  (path,) = workdir.glob("profile/plugins/profile/*/*.trace.json.gz")
  events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  marked = [event for event in events if event.get("name") == "train"]
  return sorted(int(event["args"]["step_num"]) for event in marked)


@pytest.mark.usefixtures("one_process", "one_device")
def test_a_run_that_is_traced_and_tracked(service, tiny, tmp_path, capsys):
  flags = ["--config.log.wandb=students", "--config.train.num_steps=8"]
  flags += ["--profile=3:6"]
  assert main.main(running.command(tiny, tmp_path, *flags)) == 0
  (calls,) = service.values()
  (given,) = of(calls, "init")
  assert (given["project"], given["resume"]) == ("students", "allow")
  assert given["config"]["train"]["num_steps"] == 8
  assert of(calls, "log") == history.read_lines(tmp_path / "metrics.jsonl")[0]
  assert of(calls, "finish") == [0]
  assert f"trace: {tmp_path / 'profile'}" in "".join(capsys.readouterr())
  assert traced_steps(tmp_path) == [3, 4, 5]
  (path,) = tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")
  content = path.read_bytes()
  for scope in ("teacher", "student", "relations", "optimizer"):
    assert f"/{scope}/".encode() in content or f"({scope})".encode() in content
  # Speed is not recorded while tracing; what is pending at a stop (1 and 2; 7
  # and 8) is one interval.
  rows = [row for row in running.metrics(tmp_path) if "train/loss" in row]
  assert [row["step"] for row in rows] == list(range(1, 9))
  fast = {row["step"] for row in rows if "perf/tokens_per_second" in row}
  assert fast == {1, 6, 7}
  # The same run there in the next session, which has nothing to do.
  assert main.main(running.command(tiny, tmp_path, *flags)) == 0
  assert len(service) == 1 and of(calls, "finish") == [0, 0]
  capsys.readouterr()
  flags[0] = "--config.log.wandb=closed"
  assert main.main(running.command(tiny, tmp_path, *flags)) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert "bad key wandb_v1_.... Log in by `wandb login`" in last


@pytest.mark.usefixtures("one_process", "one_device")
def test_each_of_several_students_has_a_run_there(
  service, tiny, tmp_path, monkeypatch, capsys
):
  flags = ["--config.log.wandb=students", "--config.train.num_steps=2"]
  flags += ["--config.train.warmup_steps=1", "--config.data.validation=()"]
  flags += ["--config.student.num_layers=1"]
  flags += [f"--config.students.{n}.student.seed={n == 'b':d}" for n in "ab"]
  command = running.command(tiny, tmp_path, *flags)
  monkeypatch.setattr(tracking.metadata, "version", lambda name: "0.19.9")
  assert main.main(command) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert "needs wandb 0.19.10 or newer for several students, not 0.19.9" in last
  monkeypatch.setattr(tracking.metadata, "version", lambda name: "0.22.0")
  assert main.main(command) == 0
  for name, calls in zip("ab", service.values(), strict=True):
    folder = tmp_path / "students" / name
    (given,) = of(calls, "init")
    assert (given["name"], given["group"]) == (name, tmp_path.name)
    assert given["reinit"] == "create_new" and given["dir"] == str(folder)
    assert of(calls, "log") == history.read_lines(folder / "metrics.jsonl")[0]
    assert of(calls, "finish") == [0]


def test_an_error_is_told_there(service, tmp_path):
  from time_jax.telemetry import metrics

  tracker = tracking.Tracker("p", tmp_path, {"a": {"b": f"x {KEY}"}, "c": 1})
  with (
    pytest.raises(ZeroDivisionError),
    metrics.Recorder({"a": tmp_path}, 0, 2, True, {"a": tracker}) as recorder,
  ):
    recorder.write(1, {"a": {"train/loss": 0.5}})
    raise ZeroDivisionError
  (calls,) = service.values()
  assert of(calls, "finish") == [1]
  config = of(calls, "init")[0]["config"]
  assert config == {"a": {"b": "x wandb_v1_..."}, "c": 1}
  assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": "id0"}


def test_it_is_asked_for_only_where_it_is_wanted(monkeypatch):
  monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
  tracking.check_installed("")
  with pytest.raises(UserError, match=r"pip install -e '\.\[wandb\]'"):
    tracking.check_installed("students")


def test_a_run_goes_on_without_it(service, tmp_path, capsys):
  """A service that fails is told once; a torn file begins a new run there."""
  (tmp_path / "wandb.json").write_text('{"id": "i')
  tracker = tracking.Tracker("students", tmp_path, {})
  assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": "id0"}

  def fail(*_, **__):
    raise ConnectionError("gone\nmore")

  tracker._run.log = tracker._run.finish = fail
  for step in (1, 2):
    tracker.write(step, {})
  tracker.close(failed=False)
  (line,) = capsys.readouterr().err.splitlines()
  assert "no more metrics to Weights & Biases: gone." in line
