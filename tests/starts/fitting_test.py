"""Students that cannot begin with layers of their teacher, and all commands."""

import dataclasses

import pytest
import running
from tiny_recipe import get_config

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.models.bert import BertConfig
from time_jax.parallel import processes
from time_jax.run import assembly
from time_jax.starts import fitting

LEARNS = {
  "student.init_from": "teacher:lower",
  "hidden.weight": 1.0,
  "hidden.projection": "start",
}
WIDE = {"student.hidden_size": 64, "student.num_heads": 4}
WORDS = "the student's first weights do not fit it: student.hidden_size=64, "
WORDS += "there it is 32."


def flags(fields):
  return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.mark.parametrize(
  "command",
  [
    *("bench step", "bench aot --topology=v5e:2x2"),
    pytest.param("bench scaling --devices=1", marks=pytest.mark.slow),
    *("prepare", "start", "distill"),
  ],
)
def test_no_command_takes_a_student_that_is_wider(
  capsys, monkeypatch, tiny, tmp_path, command
):
  monkeypatch.setattr(processes, "initialize", lambda: None)
  recipe = f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
  words = [*command.split(), recipe, *flags(LEARNS | WIDE)]
  if "bench" not in command:
    words.append(f"--workdir={tmp_path}")
  assert main.main(words) == 2
  assert WORDS in capsys.readouterr().err
  assert not [*tmp_path.iterdir()]


def config_of(tiny, fields):
  config = get_config(tiny)
  config.update_from_flattened_dict(fields)
  return config


def test_what_is_only_timed_may_be_narrower_and_of_random_weights(tiny):
  config = config_of(tiny, LEARNS)
  assembly.teacher_config(config)
  config.teacher.path = assembly.RANDOM
  config.teacher.architecture = {
    "model_type": "xlm-roberta",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 66,
    "layer_norm_eps": 1e-5,  # which a run would take over
    "type_vocab_size": 1,
    "hidden_act": "gelu",
    "pad_token_id": 1,
  }
  assembly.teacher_config(config)
  config.update_from_flattened_dict(WIDE)
  with pytest.raises(UserError, match="student.hidden_size=64, there it is 32"):
    assembly.teacher_config(config)


SHAPE = BertConfig(
  vocab_size=9,
  hidden_size=8,
  num_layers=2,
  num_heads=2,
  intermediate_size=16,
  max_positions=4,
)


@pytest.mark.parametrize(
  ("init_from", "changes", "layers"),
  [
    ("a/model", {}, [1, 2]),
    ("teacher:lower", {"num_layers": 4}, [1, 2]),
    ("teacher:spaced", {"num_layers": 4, "hidden_size": 16}, [2, 3]),
    ("teacher:2,1", {"max_positions": 5}, [2, 1]),
  ],
)
def test_layers_that_fit(init_from, changes, layers):
  source = dataclasses.replace(SHAPE, **changes)
  assert [*fitting.layers_of(init_from, 3, source, SHAPE)] == layers
  fitting.check_layers_of_teacher(init_from, 3, source, SHAPE)


@pytest.mark.parametrize(
  ("init_from", "changes", "words"),
  [
    ("a/model", {"num_layers": 4}, "student.num_layers=2, there it is 4."),
    ("a/model", {"hidden_size": 16}, "student.hidden_size=8, there it is 16."),
    ("teacher", {"hidden_size": 4}, "student.hidden_size=8, there it is 4."),
    ("teacher", {"num_heads": 1}, "student.num_heads=2, there it is 1."),
    (
      "teacher",
      {"intermediate_size": 8, "max_positions": 3},
      "student.intermediate_size=16, there it is 8; student.max_positions=4, "
      "there it is 3.",
    ),
    ("teacher:2,3", {}, "no layer 3; expected numbers from 1 to 2."),
    ("teacher:0,1", {}, "no layer 0; expected numbers from 1 to 2."),
    ("teacher:1", {}, "student.num_layers=2, there it is 1."),
    ("teacher", {"vocab_size": 8}, "teacher has 9 words, there are 8."),
    ("teacher", {"layer_norm_eps": 1e-3}, "layer_norm_eps=1e-12, there it is"),
  ],
)
def test_layers_that_do_not_fit(init_from, changes, words):
  source = dataclasses.replace(SHAPE, **changes)
  with pytest.raises(UserError) as error:
    fitting.layers_of(init_from, 2, source, SHAPE)
  assert words in str(error.value)
  if "layer_norm_eps" in changes:
    fitting.check_layers_of_teacher(init_from, 2, source, SHAPE)
