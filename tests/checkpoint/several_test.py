"""Several students in one checkpoint, each read as if it were alone."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running
import spoiling
from saving import (
  MEMBERS,
  abstract,
  folder_of,
  joint_scores,
  joint_values,
  lay_out,
  open_in,
  open_joint,
  save_joint,
  steps_in,
)

from time_jax.checkpoint import checksums, layout, writer
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import UserError
from time_jax.telemetry.history import FORMER_METRIC, METRIC

pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def member(workdir, name):
  return workdir / "students" / name


def scores_of(workdir, step):
  path = folder_of(workdir, step) / "metrics" / "metrics"
  return json.loads(path.read_text())


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
  """The checkpoints 1 and 2 of three students, not to be changed."""
  workdir = tmp_path_factory.mktemp("joint")
  lay_out(workdir)
  with open_joint(workdir) as checkpoints:
    save_joint(checkpoints, 1)
    save_joint(checkpoints, 2, {"m": 0.5, "xs": 0.7})
  return workdir


@pytest.fixture
def copied(joint, tmp_path):
  shutil.copytree(joint, tmp_path, dirs_exist_ok=True)
  return tmp_path


@pytest.mark.parametrize("name", MEMBERS)
def test_each_is_read_as_if_it_were_alone(joint, name):
  folder, wanted = member(joint, name), joint_values(2)[name]
  before = sorted(joint.rglob("*"))
  with CheckpointReader(folder) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.folder(2) == folder_of(joint, 2)
    assert checkpoints.metadata(2) == {"run": f"{name} 2"}
    found = checkpoints.restore(2, abstract())
    one = checkpoints.student(2, abstract()["params"])
  for tree in ("params", "rest"):
    jax.tree.map(np.testing.assert_array_equal, found[tree], wanted[tree])
  averaged = wanted.get("ema", wanted["params"])
  jax.tree.map(np.testing.assert_array_equal, one, averaged)
  assert [path.name for path in layout.step_folders(folder)] == ["1", "2"]
  assert sorted(joint.rglob("*")) == before


def test_the_format_on_disk(joint):
  """Later versions read it, and other tools may."""
  folder = folder_of(joint, 2)
  assert {path.name for path in folder.iterdir() if path.is_dir()} == {
    *("m.params", "m.rest", "s.params", "s.rest", "s.ema"),
    *("xs.params", "xs.rest", "metadata", "metrics"),
  }
  assert scores_of(joint, 2) == {
    "m.eval/loss": 0.5,
    "xs.eval/loss": 0.7,
  }


def test_positions_are_those_of_the_student(tmp_path):
  lay_out(tmp_path)

  def table(rows):
    return {"embeddings": {"position": {"embedding": jnp.zeros((rows, 2))}}}

  trees = {"m.params": table(7), "s.params": table(5), "s.ema": table(6)}
  with open_joint(tmp_path) as checkpoints:
    checkpoints.save(3, trees, {}, wait=True)
  for name, rows in {"m": 7, "s": 6}.items():
    with CheckpointReader(member(tmp_path, name)) as checkpoints:
      assert checkpoints.positions(3) == rows


def test_the_best_of_each_stays(tmp_path):
  lay_out(tmp_path)
  scores = {
    1: {"m": 0.1, "s": 0.9, "xs": 0.8},
    2: {"m": 0.5, "s": 0.2, "xs": 0.7},
    3: {"m": 0.6, "s": 0.3},
    4: {"m": 0.7, "s": float("nan"), "xs": 0.6},
    5: {"m": float("-inf"), "s": float("nan")},
    6: {},
    7: {"m": 0.8, "s": 0.4},
  }
  for some in ((1, 2, 3), (4, 5), (6,), (7,)):  # A resumed run, too.
    with open_joint(tmp_path, keep_latest=1) as checkpoints:
      for step in some:
        save_joint(checkpoints, step, scores[step])
  assert steps_in(tmp_path) == [1, 2, 4, 7]
  assert scores_of(tmp_path, 4) == joint_scores({"m": 0.7, "xs": 0.6})


def test_the_best_of_an_earlier_version_stays(tmp_path):
  """Its score has the name that it had then."""
  old = {f"{student}.{FORMER_METRIC}": 0.2 for student in ("s", "xs")}
  with open_in(tmp_path, 1, metrics=list(old)) as checkpoints:
    for step, score in ((1, old), (2, dict.fromkeys(old, 0.5))):
      checkpoints.save(step, {"params": {"x": jnp.ones(2)}}, {}, score)
  with open_joint(tmp_path, keep_latest=1) as checkpoints:
    for step, score in ((3, {"s": 0.3, "xs": 0.1}), (4, {"s": 0.3, "xs": 0.4})):
      new = joint_scores(score)
      checkpoints.save(step, {"params": {"x": jnp.ones(2)}}, {}, new)
  assert steps_in(tmp_path) == [1, 3, 4]


def test_the_best_with_the_highest_score_stays(tmp_path):
  with open_in(tmp_path, 1, metrics=["a", "b"], highest=True) as checkpoints:
    for step, score in enumerate([{"a": -2.0}, {"b": 1.0}, {"c": 9.0}, {}], 1):
      checkpoints.save(step, {"params": {"x": jnp.ones(2)}}, {}, score)
  assert steps_in(tmp_path) == [1, 2, 4]


def test_scores_are_added_and_none_is_changed(copied):
  folder = folder_of(copied, 2)
  late = {"m": 9.0, "s": 0.1, "xs": float("nan")}
  with open_joint(copied) as checkpoints:
    checkpoints.add_scores(2, joint_scores({"m": 9.0, "s": float("nan")}))
    before = (folder / "sha256.json").read_bytes()
    checkpoints.add_scores(2, joint_scores({"m": 9.0}))
    assert (folder / "sha256.json").read_bytes() == before
    checkpoints.add_scores(2, joint_scores(late) | {"s.eval/kl_qq": 3.0})
  assert scores_of(copied, 2) == {
    **joint_scores({"m": 0.5, "s": 0.1, "xs": 0.7}),
    "s.eval/kl_qq": 3.0,
  }
  assert not checksums.find_damage(folder)
  assert "metrics/metrics" in json.loads((folder / "sha256.json").read_text())
  with open_joint(copied, keep_latest=1) as checkpoints:
    save_joint(checkpoints, 3, {"m": 0.4, "s": 0.2, "xs": 0.3})
    save_joint(checkpoints, 4)
  assert steps_in(copied) == [2, 3, 4]


@pytest.mark.parametrize("moment", ["write_json", "add"])
def test_killed_while_scores_are_added_it_is_sound(copied, monkeypatch, moment):
  def killed(*_, **__):
    raise KeyboardInterrupt

  place = writer.atomic_file if moment == "write_json" else checksums
  with open_joint(copied) as checkpoints, monkeypatch.context() as patch:
    patch.setattr(place, moment, killed)
    with pytest.raises(KeyboardInterrupt):
      checkpoints.add_scores(2, joint_scores({"s": 0.1}))
  with open_joint(copied) as checkpoints:
    assert checkpoints.steps() == [1, 2]
    checkpoints.add_scores(2, joint_scores({"s": 0.1}))
  assert not (copied / "damaged").exists()
  assert not checksums.find_damage(folder_of(copied, 2))


@pytest.mark.parametrize("way", ["flip", "delete_arrays"])
def test_a_damaged_one_is_moved_once_and_all_go_back(copied, capfd, way):
  folder = folder_of(copied, 2)
  (folder / "xs.params").rename(folder / "params")
  spoiling.WAYS[way](folder)
  if way == "flip":
    (folder / "params").rename(folder / "xs.params")
  with CheckpointReader(member(copied, "xs")) as checkpoints:
    with pytest.raises(UserError, match=f"{folder} cannot be read: xs.params"):
      checkpoints.restore(2, abstract())
    checkpoints.restore(1, abstract())
  with CheckpointReader(member(copied, "m")) as checkpoints:
    checkpoints.restore(2, abstract())  # Of its own part nothing is damaged.
  with open_joint(copied) as checkpoints:
    assert checkpoints.steps() == [1]
  said = capfd.readouterr().err
  assert said.count("is damaged: xs.params/") == 1 == said.count("\n")
  assert f"moved to {copied}/damaged/2; the run continues after step 1" in said
  assert [path.name for path in (copied / "damaged").iterdir()] == ["2"]
  for name in MEMBERS:
    assert steps_in(member(copied, name)) == [1]


def test_the_run_can_be_moved_and_reached_by_a_link(copied, tmp_path_factory):
  other = tmp_path_factory.mktemp("other")
  (other / "link").symlink_to(member(copied, "xs"))
  assert steps_in(other / "link") == [1, 2]
  copied.rename(other / "moved")
  assert steps_in(other / "moved" / "students" / "xs") == [1, 2]


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("{", r"member.json is damaged: JSONDecodeError.*expected {\"run\": \"../"),
    ("[]", "member.json is damaged: TypeError"),
    ('{"run": 3, "student": "xs"}', "member.json is damaged: TypeError"),
    ('{"run": "../..", "student": "l"}', "expected l among the students of /"),
    ('{"run": "..", "student": "xs"}', "students/config.json. Put the folder"),
  ],
)
def test_a_folder_that_names_no_run_is_refused(copied, content, words):
  folder = member(copied, "xs")
  (folder / "member.json").write_text(content)
  for use in (CheckpointReader, layout.step_folders):
    with pytest.raises(UserError, match=words) as caught:
      use(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_was_moved_out_is_refused(copied, tmp_path_factory):
  alone = tmp_path_factory.mktemp("alone") / "a" / "run"
  shutil.copytree(member(copied, "xs"), alone)
  with pytest.raises(UserError, match="of the student xs of a run of several"):
    CheckpointReader(alone)
  # Where a run with one student is.
  (alone.parents[1] / "config.json").write_text('{"students": {}}')
  with pytest.raises(UserError, match=f"which is not in {alone.parents[1]}:"):
    layout.step_folders(alone)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"students": {}}'])
def test_a_run_with_one_student_names_none(tmp_path, content):
  if content:
    (tmp_path / "config.json").write_text(content)
  assert layout.students_of(tmp_path) == []
  assert layout.checkpoints_of(tmp_path) == layout.Place(tmp_path)


def test_two_processes_save_and_read_them(tmp_path):
  lay_out(tmp_path)
  code, output = running.run(
    [str(tmp_path)],
    processes=2,
    MODULE="tests.support.saving_together",
    LOGS=str(tmp_path),
  )
  logs = (tmp_path / "process-1.log").read_text()
  assert code == 0, output + logs
  for said in (output, logs):
    assert "m: [10, 20], s: [10, 20], xs: [10, 20]" in said
  with CheckpointReader(member(tmp_path, "xs")) as checkpoints:
    found = checkpoints.restore(20, abstract())
  wanted = joint_values(20)["xs"]
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert scores_of(tmp_path, 10) == {f"m.{METRIC}": 0.5, f"xs.{METRIC}": 0.25}
