"""Comments of fields are found in the source, as `--help` shows them."""

import pytest

from time_jax.cli.commands import COMMANDS
from time_jax.config import comments, distill, finetune
from time_jax.config.command import Command, flags_of
from time_jax.config.fields import flatten


class Greet(Command):
  """Greet somebody."""

  name = example = "greet"
  # Whom to greet,
  # by name.
  whom: str
  times: int = 1  # How often.
  silent: bool = False


class GreetLoudly(Greet):
  """Greet somebody loudly."""

  times: int = 2  # How often, loudly.


def test_the_comments_of_a_class():
  expected = {
    "whom": "Whom to greet, by name.",
    "times": "How often.",
    "silent": "",
  }
  found = comments.of_class(Greet)
  assert {name: found[name] for name in expected} == expected
  assert comments.of_class(GreetLoudly)["times"] == "How often, loudly."
  assert comments.of_class(GreetLoudly)["whom"] == expected["whom"]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_flag_has_one(command):
  found = comments.of_class(command)
  for flag in flags_of(command).values():
    assert len(found[flag.field]) > 4 and found[flag.field][-1] == "."


@pytest.mark.parametrize(
  ("recipe", "field", "words"),
  [
    (distill.default_config, "seed", ("dropout", "order")),
    (distill.default_config, "teacher.layer", ("1-based",)),
    (distill.default_config, "data.max_tokens", ("0:",)),
    (distill.default_config, "data.max_documents", ("0:",)),
    (finetune.ud_config, "heads.arc", ("words",)),
    (finetune.ud_config, "train.patience", ("best on dev",)),
    (finetune.ner_config, "data.longest", ("tokens",)),
    (finetune.qa_config, "data.longest", ("window",)),
  ],
)
def test_the_comments_of_a_config(recipe, field, words):
  found = comments.of_config(recipe)[field]
  assert all(word in found for word in words)


EMPTY = {"teacher.architecture", "students"}  # sections without a field


@pytest.mark.parametrize(
  "recipe", [distill.default_config, finetune.ud_config, finetune.qa_config]
)
def test_they_are_of_fields_that_exist(recipe):
  fields = dict(flatten(recipe().to_dict()))
  sections = {name.rpartition(".")[0] for name in fields}
  found = comments.of_config(recipe)
  unknown = {*found} - {*fields} - sections - EMPTY
  assert not unknown
  assert len(found) > len(fields) / 2
