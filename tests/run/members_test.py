"""Several students in one run: each as if it were trained alone."""

import json
import shutil
import signal

import alone
import numpy as np
import pytest
import running

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.cli import main
from time_jax.config.students import ONE
from time_jax.run import members
from time_jax.telemetry import history

# What each has of its own; a begins narrower than the teacher, with a fit to
# it, and learns its states in the basis of that; b learns of another layer, and
# has dropout. Of three, a step takes by half longer to trace and to compile.
NARROWED = {
  "student.init_from": "teacher:lower",
  "hidden.weight": 0.5,
  "hidden.projection": "start",
}
OWN = {
  "a": {"student.num_layers": 1, "train.peak_lr": 1e-2, "train.ema": 0.5}
  | {"train.spike": 6, "train.warmup_steps": 3}
  | NARROWED,
  "b": {"teacher.layer": 1, "student.seed": 5, "relations.weights.qk": 1.0}
  | {"student.dropout": 0.1},
}
FLAGS = (
  "--config.train.num_steps=20",
  "--config.checkpoint.every=5",
  "--config.checkpoint.keep_every=5",
  "--config.eval.every=10",
)


def fields(name, prefix=""):
  return [f"--config.{prefix}{key}={v}" for key, v in OWN[name].items()]


ALL = [word for name in OWN for word in fields(name, f"students.{name}.")]


@pytest.fixture(scope="module")
def together(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("together")
  alone.run(*running.command(tiny, workdir, *FLAGS, *ALL))
  return workdir


def parts(workdir, step, student=""):
  """All arrays of a student in a checkpoint, by their names alone."""
  prefix = f"{student}." if student else ""
  folder = workdir / "checkpoints" / str(step)
  more = [n for n in ("ema",) if (folder / f"{prefix}{n}").is_dir()]
  items = [prefix + name for name in ("params", "rest", *more)]
  found = running.arrays(folder, items)
  return {
    (name.removeprefix(prefix), *path): leaf
    for (name, *path), leaf in found.items()
  }


@pytest.mark.parametrize("name", OWN)
def test_each_is_as_if_it_were_alone(tiny, together, tmp_path, name):
  """Weights, optimizer, records and scores; of a checkpoint the record, too."""
  rows = f"--config.data.folder={together / 'data'}"
  flags = (*FLAGS, *fields(name), rows)
  alone.run(*running.command(tiny, tmp_path, *flags))
  folder = together / "students" / name
  expected = parts(tmp_path, 20)
  found = parts(together, 20, name)
  assert found.keys() == expected.keys()
  for key, leaf in expected.items():
    np.testing.assert_allclose(found[key], leaf, atol=1e-6, err_msg=str(key))
  timeless = [
    [
      {k: v for k, v in row.items() if k.startswith(("train", "eval", "data"))}
      for row in history.read_metrics(where)
    ]
    for where in (folder, tmp_path)
  ]
  for ours, theirs in zip(*timeless, strict=True):
    assert ours == pytest.approx(theirs, rel=1e-5)
  with CheckpointReader(folder) as ours, CheckpointReader(tmp_path) as theirs:
    assert ours.steps() == theirs.steps()
    record, other = ours.metadata(20), theirs.metadata(20)
    record["run"]["data"]["folder"] = other["run"]["data"]["folder"]
    assert record == other
  config = json.loads((folder / "config.json").read_text())
  other = json.loads((tmp_path / "config.json").read_text())
  assert config["students"] == {} and config["student"] == other["student"]


def test_commands_take_the_folder_of_each(together, tmp_path):
  folder = together / "students" / "b"
  chosen = alone.run("choose", f"--workdir={folder}")
  assert f"written to {folder / 'choice.json'}" in chosen
  exported = alone.run("export", f"--workdir={folder}", f"--out={tmp_path}/b")
  assert "all 39 tensors are those of step" in exported
  table = alone.run("status", together)
  assert f"{together}: 2 done, step 20 of 20" in table
  assert [line.split()[:3] for line in table.splitlines() if " done " in line][
    -2:
  ] == [[name, "done", "20"] for name in OWN]


def test_a_run_of_one_student_is_that_run(tmp_path):
  from time_jax.config.distill import default_config

  config = default_config()
  found = members.members(config, tmp_path)
  assert found.keys() == {ONE} and found[ONE].config is config
  assert found[ONE].workdir == tmp_path


@pytest.fixture
def command(tiny, together, tmp_path):
  """The run in a folder of its own, with a cache; its rows are prepared."""
  shutil.copytree(together / "data", tmp_path / "data")
  cache = f"--config.teacher.cache={tmp_path / 'cache'}"
  return running.command(tiny, tmp_path, *FLAGS, *ALL, cache)


def steps_of(workdir, student):
  return list(running.losses(workdir / "students" / student))


@pytest.mark.usefixtures("one_process", "one_device")
def test_disturbed_in_every_way_the_other_ends_bit_equal(
  together, command, tmp_path, capsys
):
  """Killed, and told to stop where b had ended; without a cache it is the same.

  In the end a change lets b go on, as if it had skipped all until then.
  """
  command = [*command, "--config.students.b.train.max_skipped=2"]
  faults = "nan:7:b,nan:8:b"
  code, output = running.disturbed(command, f"{faults},save:2:SIGKILL")
  assert code == -signal.SIGKILL, output
  line = "in 2 steps in a row, up to step 8. It is kept as it is from here on"
  line = f"b: loss, gradient or update was not finite {line}; a go on."
  assert line in output
  with CheckpointReader(tmp_path / "students" / "a") as checkpoints:
    assert checkpoints.steps() == [5]

  # Both go on, of rows that the teacher was asked about before.
  code, output = running.disturbed(command, f"{faults},step:4:SIGTERM")
  assert code == 42 and "continuing after step 5" in output, output
  assert output.count(line) == 1

  assert main.main(command) == 3
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("time_jax: error: b ended: loss, gradient or update")
  assert "a have all their steps. To go on training b" in last
  found, expected = (parts(where, 20, "a") for where in (tmp_path, together))
  running.assert_same_state(found, expected)
  ours, theirs = (
    running.losses(where / "students" / "a") for where in (tmp_path, together)
  )
  assert ours == theirs
  sessions = history.read_sessions(tmp_path / "students" / "a")
  events = [row["event"] for row in sessions]
  assert events == ["start", "start", "end", "start", "end"]
  assert sessions[-1]["code"] == 0
  found, expected = (
    list(running.losses(where / "students" / "b").items())[:6]
    for where in (tmp_path, together)
  )
  assert found == expected and steps_of(tmp_path, "b") == [*range(1, 8)]
  before, after = parts(tmp_path, 10, "b"), parts(tmp_path, 20, "b")
  assert before.pop(("rest", "step")) == 10
  assert after.pop(("rest", "step")) == 20
  running.assert_same_state(before, after)
  assert after[("rest", "skipped")] == 2
  (_, end) = history.read_sessions(tmp_path / "students" / "b")[-2:]
  assert end["code"] == 3 and "up to step 8" in end["why"]

  for step in ("18", "19", "20"):
    shutil.rmtree(tmp_path / "checkpoints" / step, ignore_errors=True)
  change = "--config.students.b.train.changes=18:max_skipped=9"
  assert main.main([*command, change]) == 0
  assert "b goes on after step 18" in "".join(capsys.readouterr())
  assert steps_of(tmp_path, "b") == [*range(1, 8), 19, 20]


def test_two_processes(together, command, tmp_path):
  """With a cache, too: each keeps what the teacher says of its own rows."""
  code, output = running.run(command, 2)
  assert code == 0, output
  for name in OWN:
    ours, theirs = (
      running.losses(where / "students" / name)
      for where in (tmp_path, together)
    )
    for step, (loss, checksum) in theirs.items():
      assert ours[step] == (pytest.approx(loss, rel=1e-3), checksum)


REFUSED = {
  "holds the students a, b; expected a config with the same, not with one "
  "student": ("", []),
  "not with the students a, b, c.": (
    "",
    [*ALL, "--config.students.c.student.seed=6"],
  ),
  "holds the student a of the run in": ("students/a", ALL),
}


@pytest.mark.parametrize("words", REFUSED)
def test_other_students_are_refused(tiny, together, one_process, capsys, words):
  folder, own = REFUSED[words]
  before = sorted(together.rglob("*"))
  command = running.command(tiny, together / folder, *FLAGS, *own)
  assert main.main(command) == 2
  assert words in capsys.readouterr().err.splitlines()[-1]
  assert sorted(together.rglob("*")) == before


def test_a_run_of_one_student_takes_no_more(
  tiny, tmp_path, one_process, capsys
):
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  assert main.main(running.command(tiny, tmp_path, *FLAGS, *ALL)) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert "holds one student; expected a config with the same, not with" in line
