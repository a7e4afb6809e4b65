"""Points that are distilled in one run: what is run, and how it ends."""

import json
import pathlib
import shutil

import pytest
import running

from time_jax.cli import main
from time_jax.config.students import ONE, effective
from time_jax.core.errors import RunError, UserError
from time_jax.sweeps import grid, joint, joint_files, stages, summary
from time_jax.sweeps import sweep as sweeps

SECONDS = 8.0
NOWHERE = pathlib.Path()


class Killed(BaseException):
  """Stands for kill -9 of the sweep."""


class Runs:
  """Stands for the processes of the stages.

  Attributes:
    calls: the stages that were started.
    code: exit code of a run of `distill`.
    ends: exit codes of students that end otherwise than their run.
    stopped: whether there was a SIGTERM.
  """

  def __init__(self):
    self.calls, self.code, self.ends, self.stopped = [], 0, {}, False

  def __call__(self, stage, log, lock):
    del lock
    self.calls.append(stage)
    log.write_text(f"time_jax: error: {stage.name} broke.\n")
    if stage.name == "bench inference":
      slow = ":9x" in " ".join(stage.words)
      speed = {"latency_s": {"p50": 0.009 if slow else 0.001}}
      speed |= {"model": "a", "engine": "jax", "batch_size": 1}
      content = {
        "schema": "time_jax.bench.inference/1",
        "hardware": {"kind": "abacus", "n_devices": 1},
        "models": [{"name": "a", "fingerprint": "of the shape"}],
        "rows": [speed],
      }
      stage.values.json.write_text(json.dumps(content))
    if stage.name != "distill":
      return 0, SECONDS, False
    if self.code == "killed":
      raise Killed
    for name in effective(stage.values.config):
      folder = stage.values.workdir
      if name != ONE:
        folder = joint_files.student_of(folder, name)
      folder.mkdir(parents=True, exist_ok=True)
      if self.code != 2:  # It was refused before there were sessions.
        ends = {"code": self.ends.get(name, self.code), "why": "it had ended"}
        with (folder / "sessions.jsonl").open("a") as file:
          for row in ({"event": "start"}, {"event": "end", **ends}):
            file.write(json.dumps({"time": 1.0, **row}) + "\n")
    return (
      self.code or max(self.ends.values(), default=0),
      SECONDS,
      self.stopped,
    )

  def since(self, count):
    """What was started: the command, and the end of its workdir."""
    calls = self.calls[count:]
    places = [getattr(stage.values, "workdir", NOWHERE) for stage in calls]
    return [
      (stage.name, "/".join(place.parts[-2:]))
      for stage, place in zip(calls, places, strict=True)
    ]


@pytest.fixture
def runs(monkeypatch):
  made = Runs()
  monkeypatch.setattr(stages, "run", made)
  monkeypatch.setattr(summary.plot, "figure", lambda *_, **__: None)
  return made


@pytest.fixture
def recipe(tiny):
  return f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tiny}"


def shapes(recipe, *layers, flags=(), together=8, limit=None):
  """A sweep of depths."""

  def make(folder, layers):
    student = folder / "student"
    measure = [
      *("bench", "inference", f"--models=a=random:{layers}x16", "--text=t"),
      *("--tokenizer=t", f"--json={folder}/speed.json"),
    ]
    distill = ["distill", recipe, f"--config.student.num_layers={layers}"]
    return [
      *([measure] if limit else []),
      [*distill, f"--workdir={student}", *flags],
      ["choose", f"--workdir={student}"],
    ]

  return grid.Sweep({"layers": layers}, make, limit, "layers", together)


@pytest.fixture
def sweep(monkeypatch, runs, tmp_path):
  """Runs a sweep; (exit code, what was started)."""

  def start(made):
    monkeypatch.setattr(grid, "load", lambda _: made)
    count = len(runs.calls)
    code = sweeps.sweep_command("x", tmp_path / "run", main.COMMANDS)
    return code, runs.since(count)

  return start


def record(tmp_path, layers, stage=0):
  path = tmp_path / "run" / f"layers={layers}" / "point.json"
  return json.loads(path.read_text())["stages"][stage]


def test_a_group_is_one_run_and_then_points_go_on(
  capsys, recipe, sweep, tmp_path
):
  """What is too slow is found before."""
  made = shapes(recipe, 1, 9, 2, limit=5)
  code, calls = sweep(made)
  assert code == 0
  assert calls == [
    *[("bench inference", "")] * 3,
    ("distill", "run/joint-1"),
    ("choose", "layers=1/student"),
    ("choose", "layers=2/student"),
  ]
  out = capsys.readouterr().out
  assert "joint-1: distill of 2 points in one run (layers=1, layers=2)" in out
  assert out.count("layers=9: skipped: 9.00 ms, limit 5 ms") == 1
  run = tmp_path / "run"
  for n in (1, 2):
    assert record(tmp_path, n, 1)["seconds"] == SECONDS / 2
    place = run / f"layers={n}" / "student"
    assert place.readlink().parts[:2] == ("..", "joint-1")
    assert (place / "sessions.jsonl").exists()
  assert (run / "joint-1" / "distill.log").exists()
  assert sweep(made) == (0, [])
  assert "7 of 9 stages done before" in capsys.readouterr().out
  # What was left out is alone now, and what is new is another group.
  code, calls = sweep(shapes(recipe, 1, 9, 2, 3, limit=10))
  assert code == 0
  assert ("distill", "run/joint-2") in calls and len(calls) == 1 + 1 + 2
  assert record(tmp_path, 9, 1)["code"] == 0


@pytest.mark.parametrize(
  ("together", "runs_of"),
  [
    (1, ["layers=1/student", "layers=2/student", "layers=3/student"]),
    (2, ["run/joint-1", "layers=3/student"]),
    (3, ["run/joint-1"]),
  ],
)
def test_as_many_together_as_the_sweep_says(recipe, sweep, together, runs_of):
  _, calls = sweep(shapes(recipe, 1, 2, 3, together=together))
  assert [place for name, place in calls if name == "distill"] == runs_of


def test_what_was_begun_alone_ends_alone(recipe, sweep, runs, tmp_path):
  runs.code = 42
  assert sweep(shapes(recipe, 1, 2, 3, together=1))[0] == 42
  runs.code = 0
  _, calls = sweep(shapes(recipe, 1, 2, 3))
  places = [place for name, place in calls if name == "distill"]
  assert places == ["run/joint-1", "layers=1/student"]


def test_a_killed_group_goes_on_whatever_was_added(
  recipe, sweep, runs, tmp_path
):
  runs.code = "killed"
  with pytest.raises(Killed):
    sweep(shapes(recipe, 1, 2))
  runs.code = 42
  code, calls = sweep(shapes(recipe, 5, 2, 1, 4, together=1))
  assert (code, calls) == (42, [("distill", "run/joint-1")])
  assert record(tmp_path, 1)["code"] == 42
  runs.code = 0
  sweep(shapes(recipe, 5, 2, 1, 4))
  first, _, again, other, *_ = runs.calls
  assert again.words == first.words
  names = json.loads((tmp_path / "run/joint-1/points.json").read_text())
  assert names == {"layers_1": "layers=1", "layers_2": "layers=2"}
  assert effective(other.values.config).keys() == {"layers_4", "layers_5"}


def test_a_lower_limit_takes_nobody_out_of_a_group(
  recipe, sweep, runs, tmp_path
):
  """Nor is the point said to be distilled, of which nothing more is run."""
  runs.code = 42
  sweep(shapes(recipe, 1, 9, limit=10))
  runs.code = 0
  _, calls = sweep(shapes(recipe, 1, 9, limit=5))
  assert calls == [("distill", "run/joint-1"), ("choose", "layers=1/student")]
  assert [record(tmp_path, n, 1)["code"] for n in (1, 9)] == [0, 42]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_signal_ends_the_sweep(capsys, recipe, sweep, runs, stopped):
  runs.stopped, runs.code = stopped, 0 if stopped else 42
  code, calls = sweep(shapes(recipe, 1, 2))
  assert code == 42 and len(calls) == 1
  assert "stopped after 8 s; run the sweep again" in capsys.readouterr().out
  runs.stopped, runs.code = False, 0
  code, calls = sweep(shapes(recipe, 1, 2))
  # What was finished when the signal came is finished.
  assert code == 0 and len(calls) == (2 if stopped else 3)


def test_a_student_that_ends_fails_alone(capsys, recipe, sweep, runs, tmp_path):
  runs.ends = {"layers_2": 3}
  with pytest.raises(RunError) as caught:
    sweep(shapes(recipe, 1, 2, 3))
  assert "1 of 3 points failed: layers=2 (distill, exit code 3)." in str(
    caught.value
  )
  assert runs.since(1) == [
    ("choose", "layers=1/student"),
    ("choose", "layers=3/student"),
  ]
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].endswith(" ... 8 s")
  assert lines[2].startswith(
    "layers=2: distill failed with exit code 3: it had ended See "
  )
  assert record(tmp_path, 2)["code"] == 3 and record(tmp_path, 1)["code"] == 0
  runs.ends, runs.code = {}, 42
  assert sweep(shapes(recipe, 1, 2, 3))[0] == 42
  assert record(tmp_path, 1)["code"] == 0  # Which was done before.
  runs.code = 0
  code, calls = sweep(shapes(recipe, 1, 2, 3))
  assert code == 0 and [name for name, _ in calls] == ["distill", "choose"]


@pytest.mark.parametrize("code", [2, 3])
def test_a_run_that_fails_as_a_whole(
  capsys, recipe, sweep, runs, tmp_path, code
):
  runs.code = code
  with pytest.raises(RunError, match="2 of 2 points failed: layers=1 "):
    sweep(shapes(recipe, 1, 2))
  assert runs.since(0) == [("distill", "run/joint-1")]
  out = capsys.readouterr().out
  assert f"failed after 8 s with exit code {code}: distill broke. See" in out
  assert [record(tmp_path, n)["code"] for n in (1, 2)] == [code] * 2
  assert "lower `together` in the sweep's file and delete " in out
  runs.code = 0
  assert sweep(shapes(recipe, 1, 2))[1][0] == ("distill", "run/joint-1")
  assert record(tmp_path, 1)["seconds"] == SECONDS


def test_what_an_earlier_session_said_does_not_count(
  recipe, sweep, runs, tmp_path
):
  for code in (42, 2, 3):
    runs.code = code
    if code == 42:
      assert sweep(shapes(recipe, 1, 2))[0] == 42
    else:
      with pytest.raises(RunError):
        sweep(shapes(recipe, 1, 2))
    assert [record(tmp_path, n)["code"] for n in (1, 2)] == [code] * 2


def test_killed_as_a_group_is_formed(monkeypatch, recipe, sweep, tmp_path):
  """Its links are there, the list of its points is not."""

  def kill(*_):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(joint.atomic_file, "write_json", kill)
    with pytest.raises(Killed):
      sweep(shapes(recipe, 1, 2))
  assert (tmp_path / "run" / "layers=1" / "student").is_symlink()
  _, calls = sweep(shapes(recipe, 1, 2))
  assert [name for name, _ in calls] == ["distill", "choose", "choose"]


def test_a_workdir_deep_in_a_point(recipe, runs, sweep, tmp_path):
  def stages(folder, layers):
    words = ["distill", recipe, f"--config.student.num_layers={layers}"]
    return [[*words, f"--workdir={folder}/a/b"]]

  runs.code = 42
  made = grid.Sweep({"layers": (1, 2)}, stages, x="layers")
  sweep(made)
  runs.code = 0
  assert sweep(made)[0] == 0
  place = tmp_path / "run" / "layers=2" / "a" / "b"
  assert place.resolve() == tmp_path / "run/joint-1/students/layers_2"


def test_a_group_that_the_sweep_does_not_know_any_more(
  recipe, sweep, runs, tmp_path
):
  runs.code = 42
  sweep(shapes(recipe, 1, 2, 3))
  runs.code = 0
  with pytest.raises(UserError) as caught:
    sweep(shapes(recipe, 1, 2, 4))
  links = [tmp_path / "run" / f"layers={n}" / "student" for n in (1, 2)]
  advice = f"Undo the change, or delete {links[0]}, {links[1]}, to distil"
  assert f"has no layers=3 now. {advice}" in str(caught.value)
  with pytest.raises(UserError, match="joint-1 cannot go on: .*parallel"):
    sweep(shapes(recipe, 1, 2, 3, flags=["--config.train.parallel=pmap"]))
  assert len(runs.calls) == 1
  for link in links:
    link.unlink()
  code, calls = sweep(shapes(recipe, 1, 2, 4))
  assert code == 0 and calls[0] == ("distill", "run/joint-2")
  names = json.loads((tmp_path / "run/joint-2/points.json").read_text())
  assert [*names.values()] == ["layers=1", "layers=2", "layers=4"]


def test_points_that_differ_now_are_told(recipe, sweep, runs):
  def make(long):
    def stages(folder, layers):
      words = ["distill", recipe, f"--config.student.num_layers={layers}"]
      if layers == long:
        words.append("--config.data.seq_len=16")
      return [[*words, f"--workdir={folder}/student"]]

    return grid.Sweep({"layers": (1, 2)}, stages, x="layers")

  runs.code = 42
  sweep(make(0))
  with pytest.raises(UserError, match="differs from .* in data.seq_len"):
    sweep(make(2))


def test_a_deleted_point_runs_alone(recipe, sweep, tmp_path):
  sweep(shapes(recipe, 1, 2))
  shutil.rmtree(tmp_path / "run" / "layers=2")
  code, calls = sweep(shapes(recipe, 1, 2))
  assert code == 0 and calls == [
    ("distill", "layers=2/student"),
    ("choose", "layers=2/student"),
  ]
  assert not (tmp_path / "run" / "layers=2" / "student").is_symlink()


def test_a_deleted_group_begins_anew(recipe, sweep, runs, tmp_path):
  """With fewer at once, where memory was too small for all."""
  runs.code = 2
  with pytest.raises(RunError):
    sweep(shapes(recipe, 1, 2, 3, 4))
  shutil.rmtree(tmp_path / "run" / "joint-1")
  runs.code = 0
  code, calls = sweep(shapes(recipe, 1, 2, 3, 4, together=2))
  assert code == 0
  places = [place for name, place in calls if name == "distill"]
  assert places == ["run/joint-1", "run/joint-2"]


def test_a_damaged_list_of_points(recipe, sweep, tmp_path):
  sweep(shapes(recipe, 1, 2))
  (tmp_path / "run" / "joint-1" / "points.json").write_text("[")
  with pytest.raises(UserError, match=r"joint-1/points.json is damaged; exp"):
    sweep(shapes(recipe, 1, 2))


def test_what_cannot_be_together_is_alone(capsys, monkeypatch, recipe, sweep):
  def refuse(config, *_):
    raise UserError(f"{config.student.num_layers} layers are too few.")

  monkeypatch.setattr(joint.first_weights, "check_source", refuse)
  code, calls = sweep(shapes(recipe, 1, 2))
  assert code == 0 and [p for n, p in calls if n == "distill"] == [
    "layers=1/student",
    "layers=2/student",
  ]
  out = capsys.readouterr().out
  head = "layers=1, layers=2: not distilled in one run. "
  assert f"{head}layers_1: 1 layers are too few." in out
