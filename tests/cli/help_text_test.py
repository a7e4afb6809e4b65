"""`--help` lists commands, flags, and the fields of configs."""

import re

import pytest
from flags_of_commands import FLAGS

from time_jax.cli import main
from time_jax.config import distill
from time_jax.config.command import flags_of
from time_jax.config.fields import flatten

COMMANDS = tuple(FLAGS)


@pytest.mark.parametrize(
  "argv", [[], ["--help"], ["-h"], ["help"], ["help", "-h"]]
)
def test_overview_lists_the_commands(capsys, argv):
  assert main.main(argv) == 0
  output = capsys.readouterr()
  lines = output.out.splitlines()
  assert not output.err
  assert "usage: python -m time_jax COMMAND [--flag=value ...]" in lines
  assert tuple(main.COMMANDS) == COMMANDS
  for name in COMMANDS:
    (line,) = (x for x in lines if x.startswith(f"  {name} "))
    assert len(line.removeprefix(f"  {name}").strip()) > 10
    assert len(line) <= 90


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(capsys, name):
  command, known = main.COMMANDS[name], flags_of(main.COMMANDS[name])
  assert main.main(["help", *name.split()]) == 0
  short = capsys.readouterr()
  assert main.main([*name.split(), "--help"]) == 0
  output = capsys.readouterr()
  assert output == short and not output.err
  lines = output.out.splitlines()
  assert lines[0] == command.__doc__.splitlines()[0]
  usage = f"usage: python -m time_jax {name}"
  if command.argument:
    word = command.argument.upper()
    usage += f" {word}" if known[command.argument].required else f" [{word}]"
  assert lines[2] == usage + " [--flag=value ...]" * bool(known)
  assert lines[3].startswith(f"example: python -m time_jax {name}")
  # Texts of more than a line are indented more, and config fields come later.
  own = output.out.partition("flags:\n")[2].partition("\nconfig fields")[0]
  shown = re.findall(r"^  (\S+) +(.*(?:\n {19}.*)*)", own, re.M)
  is_argument = {True: str.upper, False: "--{}".format}
  assert [flag for flag, _ in shown] == [
    is_argument[flag == command.argument](flag) for flag in FLAGS[name]
  ]
  for (_, text), flag in zip(shown, known.values(), strict=True):
    assert ("(required)" in text) == flag.required


def test_help_shows_defaults_and_choices(capsys):
  assert main.main(["bench", "scaling", "--help"]) == 0
  text = " ".join(capsys.readouterr().out.split())
  assert "Rounds over all numbers of devices. Default: 2." in text
  assert "or of all together. One of weak, strong, both. Default: both." in text


def fields_shown(text):
  """Field -> (value and range, comment)."""
  entries = re.findall(r"^  (\S+) +(.*)((?:\n {6}.*)*)", text, re.M)
  return {name: (value, " ".join(c.split())) for name, value, c in entries}


def test_help_shows_every_field_with_value_range_and_comment(capsys):
  assert main.main(["distill", "--help"]) == 0
  found = fields_shown(
    capsys.readouterr().out.partition("config fields (defaults):\n")[2]
  )
  fields = flatten(distill.default_config().to_dict())
  names = [*(name for name, _ in fields), "students.NAME.FIELD"]
  assert sorted(found) == sorted(names)
  assert "has of its own" in found["students.NAME.FIELD"][1]
  assert found["train.eps"] == ("1e-06 (from 1e-20 to 1)", "")
  assert found["train.global_batch_size"] == (
    "256 (from 1 to 1,000,000)",
    "rows of all devices, per optimizer step",
  )
  assert "per_head" in found["teacher.relative_layout"][1]


def test_help_shows_the_fields_of_a_recipe(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  recipe = ["--config=time:lang=da,size=xs", "--config.train.num_steps=7"]
  assert main.main(["prepare", *recipe, "--help"]) == 0
  found = fields_shown(
    capsys.readouterr().out.partition("fields of this recipe:\n")[2]
  )
  assert found["lang"][0] == "'da'"
  assert found["student.num_layers"][0].split()[0] == "4"
  assert found["train.num_steps"][0] == "7 (from 1 to 1,000,000,000)"


def test_help_shows_the_fields_of_several_students(
  capsys, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  recipe = ["--config=time:size=m+xs", "--config.students.xs.train.ema=0.5"]
  assert main.main(["distill", *recipe, "--help"]) == 0
  found = fields_shown(
    capsys.readouterr().out.partition("fields of this recipe:\n")[2]
  )
  assert found["students.m.student.num_layers"] == (
    "6 (from 1 to 1,000,000)",
    "",
  )
  assert found["students.xs.student.num_layers"][0].startswith("4 (")
  assert found["students.xs.train.ema"][0].startswith("0.5 (")


@pytest.mark.parametrize("group", ["bench", "finetune"])
def test_help_of_a_group_lists_its_commands(capsys, group):
  assert main.main([group, "--help"]) == 0
  lines = capsys.readouterr().out.splitlines()
  found = [x for x in lines if x.startswith("  ")]
  of_group = [name for name in COMMANDS if name.startswith(f"{group} ")]
  assert len(found) == len(of_group) > 1
  assert all(
    f"  {name} " in line for name, line in zip(of_group, found, strict=True)
  )
