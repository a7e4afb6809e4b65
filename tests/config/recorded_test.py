"""Configs of earlier runs: what is added to them, and what is another run."""

import json

import pytest
from ml_collections import ConfigDict

from time_jax.config.distill import (
  check_config,
  default_config,
  missing_fields,
)
from time_jax.config.recorded import (
  completed,
  differences,
  lacking,
)
from time_jax.core.errors import UserError
from time_jax.run import run_files


def changed(**fields):
  config = default_config()
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in fields.items()}
  )
  return config


def test_where_and_how_fast_a_run_goes_makes_no_other_run():
  before = default_config().to_dict()
  now = changed(
    checkpoint__every=7,
    data__folder="/elsewhere",
    data__prefetch=9,
    eval__every=3,
    log__every=1,
    mesh__fsdp=4,
    teacher__path="/elsewhere",
    train__max_skipped=99,
    data__max_bad_records=0,
    teacher__cache="/elsewhere",
    teacher__cache_gb=3.0,
  )
  assert differences(before, now.to_dict()) == []
  assert "mesh.fsdp: 1 then, 4 now" in differences(
    before, now.to_dict(), harmless=True
  )
  assert len(differences(before, now.to_dict(), harmless=True)) == 11


@pytest.mark.parametrize(
  ("field", "value", "line"),
  [
    ("seed", 4, "seed: 21 then, 4 now"),
    ("train__peak_lr", 1e-3, "train.peak_lr: 0.0006 then, 0.001 now"),
    ("teacher__layer", 3, "teacher.layer: 0 then, 3 now"),
    ("teacher__cache_dtype", "x", "teacher.cache_dtype: '' then, 'x' now"),
    ("data__train", ("a", "b"), "data.train: [] then, ['a', 'b'] now"),
    ("student__hidden_size", 8, "student.hidden_size: 384 then, 8 now"),
  ],
)
def test_what_shapes_the_result_makes_another_run(field, value, line):
  before, now = default_config().to_dict(), changed(**{field: value}).to_dict()
  assert differences(before, now) == [line]


def test_fields_that_came_or_went_are_differences():
  assert differences({"a": 1}, {"b": 2}) == [
    "a: 1 then, '(absent)' now",
    "b: '(absent)' then, 2 now",
  ]


def test_an_older_config_has_the_fields_that_came_later():
  before = default_config().to_dict()
  del before["train"]["ema"], before["train"]["spike"]
  before["data"]["gone"] = before["odd (SHA-256)"] = 3
  now = changed(train__ema=0.5).to_dict()
  assert differences(completed(before), now) == [
    "data.gone: 3 then, '(absent)' now",
    "odd (SHA-256): 3 then, '(absent)' now",
    "train.ema: 0.0 then, 0.5 now",
  ]
  assert differences({"train": {}}, {"train": {"ema": 0.0}})  # Not by itself.


def test_a_config_survives_its_file(tmp_path):
  config = changed(data__train=("a.txt", "b.txt"), train__eps=1e-7)
  (tmp_path / "config.json").write_text(config.to_json())
  again = run_files.read_config(tmp_path)
  assert differences(config.to_dict(), again.to_dict()) == []
  assert list(again.data.train) == ["a.txt", "b.txt"]
  check_config(again)


def test_a_config_of_another_program_is_refused(tmp_path):
  for content, words in (
    ({"model_type": "bert"}, "lacks fields such as checkpoint, "),
    ([1], "holds list"),
  ):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
      run_files.read_config(tmp_path)
  without = default_config().to_dict()
  del without["train"]["b1"]
  assert missing_fields(without) == ["train.b1"]
  assert missing_fields(ConfigDict(without).to_dict()) == ["train.b1"]


def test_sections_may_lack_fields_but_not_be_something_else():
  config = default_config().to_dict()
  assert lacking(config) == []
  del config["relations"]["weights"], config["train"]["ema"]
  assert lacking(config) == []
  assert completed(config)["relations"]["weights"]["qq"] == 1
  config["teacher"]["architecture"] = 3
  del config["mesh"]
  assert lacking(config) == ["mesh", "architecture"]


def test_a_config_from_before_students_had_names():
  before = default_config().to_dict()
  del before["students"], before["student"]["seed"]
  assert lacking(before) == []
  assert differences(completed(before), default_config().to_dict()) == []
  assert completed(before)["students"] == {}
  assert completed(before)["student"]["seed"] == -1
  assert lacking(before | {"students": 3}) == ["students"]


def test_a_run_from_before_there_were_hidden_states_is_one():
  config = default_config().to_dict()
  del config["hidden"]
  assert lacking(config) == []
  assert completed(config)["hidden"] == default_config().hidden.to_dict()
