"""Settings that change at a step of a run: read, compared, and followed."""

import json
import shutil

import alone
import pytest
import running

from time_jax.cli import main
from time_jax.config import changes
from time_jax.config.distill import check_config, default_config
from time_jax.config.students import ONE
from time_jax.core.errors import UserError
from time_jax.run import run_record, status

FLAGS = (
  "--config.data.validation=()",
  "--config.checkpoint.every=2",
  "--config.checkpoint.keep_every=2",
  "--config.train.num_steps=6",
  "--config.train.warmup_steps=1",
  "--config.student.num_layers=1",
)


def test_reading():
  text = "1200:peak_lr=3e-4; 50:spike=6,max_skipped=20"
  assert changes.parse(text) == {
    50: {"spike": 6, "max_skipped": 20},
    1200: {"peak_lr": 3e-4},
  }
  assert changes.parse("") == {}


@pytest.mark.parametrize(
  "text",
  [
    *("peak_lr=1", "1200:", "1200:peak_lr", "x:peak_lr=1", "5:peak_lr=a"),
    *("5:spike=1;5:spike=2", "5:spike=1,spike=2", "1200"),
  ],
)
def test_what_cannot_be_read(text):
  with pytest.raises(UserError, match="expected STEP:FIELD=VALUE") as error:
    changes.parse(text)
  assert repr(text) in str(error.value)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("0:peak_lr=1", "step 0, expected 1 to 199999"),
    ("200000:peak_lr=1", "step 200000, expected 1 to 199999"),
    ("5:seed=3", "'seed', expected one of peak_lr, spike"),
    ("5:peak_lr=nan", "peak_lr=nan after step 5, expected 1e-30 to 100"),
    ("5:max_skipped=1.5", "max_skipped=1.5 after step 5, expected 1 to"),
    ("5", "train.changes='5' cannot be read"),
  ],
)
def test_what_no_run_could_use(text, expected):
  config = default_config()
  config.train.changes = text
  with pytest.raises(UserError) as error:
    check_config(config)
  assert expected in str(error.value)


def test_the_settings_of_a_step():
  config = default_config()
  assert changes.at(config, 7) is config
  config.train.changes = "5:peak_lr=1;7:peak_lr=0.5,spike=6"
  found = [changes.at(config, step).train for step in (4, 5, 6, 7, 99)]
  assert [train.peak_lr for train in found] == [6e-4, 1.0, 1.0, 0.5, 0.5]
  assert [train.spike for train in found] == [0, 0, 0, 6, 6]
  assert config.train.peak_lr == 6e-4


def test_only_steps_to_come_may_change():
  assert changes.agree("5:spike=1", "5:spike=1;9:spike=2", 9)
  assert not changes.agree("5:spike=1", "5:spike=1;8:spike=2", 9)
  assert not changes.agree("5:spike=1", "", 9)
  assert changes.agree("9:spike=1", "", 9)


def test_the_flag_to_type():
  flag = changes.added("50:spike=6.0", 40, peak_lr=3e-4)
  assert flag == "--config.train.changes='40:peak_lr=0.0003;50:spike=6.0'"
  text = flag.split("'")[1]
  assert changes.added(text, 40, spike=2) == (
    "--config.train.changes='40:peak_lr=0.0003,spike=2;50:spike=6.0'"
  )


def test_the_flags_to_type_for_one_of_several_students():
  config, prefix = default_config(), "students.xs."
  config.train.changes = "2:spike=3"
  half = "--config.students.xs.train.changes='2:spike=3;9:peak_lr=0.0003'"
  assert half in changes.way_on(config, 9, prefix)
  assert "Lower students.xs.train.peak_lr," in changes.way_on(config, 0, prefix)
  now = config.train.to_dict() | {"peak_lr": 1e-3}
  assert changes.instead(config.train, now, 9, prefix) == (
    " To change students.xs.train.peak_lr from here on, leave the old value "
    "and add --config.students.xs.train.changes='2:spike=3;9:peak_lr=0.001'."
  )


@pytest.mark.parametrize(
  ("step", "value"),
  [(2, "2:peak_lr=0.00125"), (4, "2:peak_lr=0.0025;4:peak_lr=0.00125")],
)
def test_the_way_on_lowers_the_rate_that_there_was(step, value):
  config = default_config()
  config.train.changes = "2:peak_lr=0.0025"
  flag = f"add --config.train.changes='{value}' to the same command"
  assert flag in changes.way_on(config, step)
  more = changes.way_on(config, step, "students.a.", max_skipped=20)
  flag = f"--config.students.a.train.changes='{value},max_skipped=20' to"
  assert flag in more


def check_same(before, now):
  run_record.check_same({"run": before}, {ONE: {"run": now}}, 4)


@pytest.mark.parametrize(
  ("more", "helps"),
  [({}, True), ({"max_skipped": 3}, True), ({"weight_decay": 0.5}, False)],
)
def test_the_flag_is_told_only_where_it_helps(more, helps):
  """What else differs would still be refused."""
  before = json.loads(default_config().to_json())
  before |= {run_record.TEACHER: "a", run_record.ROWS: "b"}
  train = before["train"] | {"peak_lr": 1e-3} | more
  with pytest.raises(UserError, match="train.peak_lr: 0.0006 then") as error:
    check_same(before, before | {"train": train})
  assert ("leave the old value and add" in str(error.value)) == helps
  with pytest.raises(UserError) as error:
    check_same(before, before | {"train": train, "seed": 1})
  assert "leave the old value" not in str(error.value)


CHANGE = "--config.train.changes=4:peak_lr=1e-3,spike=9,clip_norm=0.1"


@pytest.fixture(scope="module")
def changed(tiny, tmp_path_factory):
  """A run that changes after step 4, in one go."""
  workdir = tmp_path_factory.mktemp("changed")
  alone.run(*running.command(tiny, workdir, *FLAGS, CHANGE))
  return workdir


@pytest.mark.usefixtures("one_process", "one_device")
def test_a_change_may_be_told_late(tiny, changed, tmp_path, capsys):
  """A run without it, resumed with it before it, is the run with it at once."""
  run = tmp_path / "run"
  words = running.command(tiny, run, *FLAGS)
  assert main.main(words) == 0
  early = (running.saved(folder, 4) for folder in (run, changed))
  running.assert_same_state(*early)
  rates = {
    row["step"]: row["train/learning_rate"]
    for row in map(json.loads, (changed / "metrics.jsonl").open())
    if "train/learning_rate" in row
  }
  assert rates[4] == pytest.approx(5e-3 * 3 / 5)
  assert rates[5] == pytest.approx(1e-3 * 2 / 5)

  for step in ("4", "6"):
    shutil.rmtree(run / "checkpoints" / step)
  capsys.readouterr()
  assert main.main([*words, CHANGE]) == 0
  told = "".join(capsys.readouterr())
  assert "changed since step 2: train.changes: '' then, '4:peak_lr=" in told
  assert "after step 4: peak_lr 0.001, spike 9, clip_norm 0.1" in told
  both = [running.saved(folder, 6) for folder in (run, changed)]
  running.assert_same_state(*both)
  assert any("usual" in path for path in both[0])
  status.status_command(changed)
  said = capsys.readouterr().out
  assert "after step 4: peak_lr 0.001, spike 9, clip_norm 0.1" in said


LATER = "4:peak_lr=0.001,spike=9,clip_norm=0.1;6:peak_lr=0.002"


@pytest.mark.usefixtures("one_process", "one_device")
@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (
      [CHANGE, "--config.train.peak_lr=2e-3"],
      f"leave the old value and add --config.train.changes='{LATER}'.",
    ),
    ([f"{CHANGE};3:spike=9"], "another run: train.changes: '4:peak_lr="),
    ([], "train.changes: '4:peak_lr=1e-3,spike=9,clip_norm=0.1' then, '' now"),
  ],
)
def test_what_is_done_cannot_be_changed(tiny, changed, capsys, flags, expected):
  assert main.main(running.command(tiny, changed, *FLAGS, *flags)) == 2
  assert expected in capsys.readouterr().err
