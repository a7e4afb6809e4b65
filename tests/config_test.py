"""Fields, what they may be, and what makes two runs different."""

import importlib.util
import json
import pathlib

import pytest
from ml_collections import ConfigDict

from time_jax import assembly
from time_jax.config import (
  check_config,
  default_config,
  differences,
  flatten,
  missing_fields,
)
from time_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def changed(**fields):
  config = default_config()
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in fields.items()}
  )
  return config


def recipe(name, arguments=None):
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(*([] if arguments is None else [arguments]))
  return module, config


def test_defaults_are_the_published_recipe():
  config = default_config()
  check_config(config)
  train = config.train
  assert (train.num_steps, train.global_batch_size) == (200_000, 256)
  assert (train.peak_lr, train.warmup_steps) == (6e-4, 4000)
  assert (train.b1, train.b2, train.eps) == (0.9, 0.999, 1e-6)
  assert (train.weight_decay, train.clip_norm) == (0.01, 1.0)
  assert (config.data.seq_len, config.student.dropout) == (512, 0.1)
  assert assembly.relation_weights(config) == {"qq": 1, "kk": 1, "vv": 1}


def test_a_misspelt_field_cannot_be_set():
  with pytest.raises(AttributeError, match="stps"):
    default_config().train.stps = 3


@pytest.mark.parametrize("name", ["quickstart", "time", "xlmr_random"])
def test_recipes_have_every_field_and_pass_the_check(name):
  _, config = recipe(name)
  check_config(config)
  assert missing_fields(config.to_dict()) == []


def test_every_combination_of_the_recipe_of_the_paper():
  module, _ = recipe("time")
  seen = set()
  for lang in module.LANGUAGES:
    for size in module.STUDENT_SIZES:
      for teacher in module.TEACHERS:
        config = module.get_config(f"lang={lang},size={size},teacher={teacher}")
        check_config(config)
        assert config.lang == lang
        assert lang in config.data.train[0] and config.data.validation[0]
        seen.add((config.teacher.path, config.student.hidden_size))
        # R divides the widths of the student and of all three teachers.
        widths = config.student.hidden_size, 1024 if "large" in teacher else 768
        assert not any(width % config.relations.num_heads for width in widths)
  assert len(seen) == 6


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"train__num_steps": -1}, "train.num_steps=-1 is negative"),
    ({"train__peak_lr": -0.1}, "train.peak_lr=-0.1 is negative"),
    ({"checkpoint__every": 0}, "checkpoint.every=0, expected at least 1"),
    ({"student__dropout": 1.0}, "student.dropout=1.0, expected less than 1"),
    ({"train__b2": 1.5}, "train.b2=1.5, expected less than 1"),
    ({"train__dtype": "int8"}, "'int8', expected one of bfloat16, float32"),
    ({"data__packing": "x"}, "data.packing='x', expected one of pack, none"),
    ({"teacher__loader": "x"}, "'x', expected one of own, flax"),
    ({"train__parallel": "x"}, "'x', expected one of jit, pmap"),
    ({"data__seq_len": 513}, "longer than the student's position table"),
  ],
)
def test_a_value_that_no_run_could_use(fields, words):
  with pytest.raises(UserError) as caught:
    check_config(changed(**fields))
  assert words in str(caught.value)
  assert ";" not in str(caught.value)


def test_all_problems_come_at_once():
  config = changed(train__num_steps=0, train__eps=-1.0, teacher__dtype="x")
  with pytest.raises(UserError) as caught:
    check_config(config)
  text = str(caught.value)
  assert text.count(";") == 2
  assert all(x in text for x in ("num_steps", "train.eps", "teacher.dtype"))


def test_a_mesh_may_be_negative():
  check_config(changed(mesh__data=-1, mesh__fsdp=2))


def test_flatten():
  assert list(flatten({"a": 1, "b": {"c": {"d": 2}, "e": {}}})) == [
    ("a", 1),
    ("b.c.d", 2),
  ]


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
  )
  assert differences(before, now.to_dict()) == []


@pytest.mark.parametrize(
  ("field", "value", "line"),
  [
    ("seed", 4, "seed: 21 then, 4 now"),
    ("train__peak_lr", 1e-3, "train.peak_lr: 0.0006 then, 0.001 now"),
    ("teacher__layer", 3, "teacher.layer: 0 then, 3 now"),
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


def test_a_config_survives_its_file(tmp_path):
  config = changed(data__train=("a.txt", "b.txt"), train__eps=1e-7)
  (tmp_path / "config.json").write_text(config.to_json())
  again = assembly.read_run(tmp_path)
  assert differences(config.to_dict(), again.to_dict()) == []
  assert list(again.data.train) == ["a.txt", "b.txt"]
  check_config(again)


def test_a_config_of_another_program_is_refused(tmp_path):
  for content, words in (
    ({"model_type": "bert"}, "lacks fields such as checkpoint.every, "),
    ([1], "holds list"),
  ):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
      assembly.read_run(tmp_path)
  without = default_config().to_dict()
  del without["train"]["b1"]
  assert missing_fields(without) == ["train.b1"]
  assert missing_fields(ConfigDict(without).to_dict()) == ["train.b1"]
