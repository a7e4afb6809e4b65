"""Flags, fields and recipes of a command, and what is wrong with them."""

import itertools
import pathlib

import pytest

from time_jax.cli import main
from time_jax.config import command_line, distill, fields

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = f"--config={ROOT}/configs/time.py"


def field_names():
  known = fields.flatten(distill.default_config().to_dict())
  return [name for name, _ in known]


def error_of(capsys, *argv):
  """The one line that a wrong command line gives."""
  assert main.main(argv) == 2
  output = capsys.readouterr()
  assert not output.out
  (line,) = output.err.splitlines()
  return line.removeprefix("time_jax: error: ")


@pytest.mark.parametrize(
  ("argv", "needs"),
  [
    (["prepare"], "--config and --workdir"),
    (["distill", RECIPE], "--workdir"),
    (["distill", "--workdir=runs/x"], "--config"),
    (["choose"], "--workdir"),
    (["export", "--step=3"], "--workdir"),
    (["export", "--workdir="], "--workdir"),
  ],
)
def test_a_missing_flag_comes_with_an_example(capsys, argv, needs):
  line = error_of(capsys, *argv)
  start = f"{argv[0]} needs {needs}; for example: python -m time_jax {argv[0]} "
  assert line.startswith(start)


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["choose", "--workdir"], ("--workdir",)),
    (
      ["export", "--workdir=x", "--step=-1"],
      ("--step=-1: expected a whole number of at least 0.",),
    ),
    (
      ["export", "--workdir=x", "--step=last"],
      ("--step=last: expected a whole number.",),
    ),
    (["status", "x", "--plot"], ("--plot needs a value: PNG to draw ",)),
    (
      ["bench", "relations", "--repeats=0"],
      ("--repeats=0: expected a whole number of at least 1.",),
    ),
    (
      ["bench", "scaling", "--devices=1,two"],
      ("--devices=1,two: expected a whole number.",),
    ),
    (
      ["bench", "relations", "--seq_lens="],
      ("--seq_lens=: expected one value or more, with commas between them.",),
    ),
    (
      ["bench", "step", "--peak_tflops=fast"],
      ("--peak_tflops=fast: expected a number.",),
    ),
    (
      ["bench", "compare", "--dtype=half"],
      ("--dtype=half: expected one of float32, bfloat16.",),
    ),
    (
      ["bench", "compare", "--cut=maybe"],
      ("--cut=maybe: expected true or false.",),
    ),
    (
      ["bench", "compare", "--nocut=1"],
      ("--nocut=1 does not take an argument.",),
    ),
    (["distill", "--config.seed=3"], ("--config.seed needs --config",)),
    (
      ["distill", RECIPE, "--config.train.b1=1", "--config.train={}"],
      ("--config.train is provided after --config.train.b1",),
    ),
  ],
)
def test_values_that_a_flag_cannot_have(capsys, argv, words):
  line = error_of(capsys, *argv)
  assert all(word in line for word in words)


def config_of(*words):
  command, rest = command_line.split(words, main.COMMANDS)
  return command_line.parse(command, rest).config


def test_the_order_of_flags_does_not_matter():
  words = "--config.seed=3", "--noconfig.teacher.allow_pickle", "--workdir=x"
  recipes = [RECIPE], ["--config", RECIPE.removeprefix("--config=")]
  for recipe, before in itertools.product(recipes, range(len(words) + 1)):
    config = config_of("distill", *words[:before], *recipe, *words[before:])
    assert config.seed == 3 and not config.teacher.allow_pickle
  line = "distill", "--config.seed=3", RECIPE, "--config.seed=4", "--workdir=x"
  assert config_of(*line).seed == 4


@pytest.mark.parametrize(
  ("value", "number"), [("1e5", 100_000), ("2.50E2", 250), ("1_000", 1000)]
)
def test_a_whole_number_may_be_written_with_an_exponent(value, number):
  field = "--config.train.num_steps"
  for words in ([f"{field}={value}"], [field, value]):
    config = config_of("distill", *words, RECIPE, "--workdir=x")
    assert config.train.num_steps == number
    assert isinstance(config.train.num_steps, int)
  # A field of words keeps what was typed.
  label = "--config.label=1e5", f"--config={ROOT}/configs/ud.py"
  assert config_of("finetune", "ud", *label, "--workdir=x").label == "1e5"


@pytest.mark.parametrize("value", ["1.5", "1e-1", "1e400", "0x10", "nan", "1e"])
def test_what_is_no_whole_number_is_refused(capsys, value):
  field = f"--config.train.num_steps={value}"
  line = error_of(capsys, "distill", RECIPE, field, "--workdir=x")
  assert line == f"flag {field}: expected a whole number."


@pytest.mark.parametrize(
  ("given", "near", "section"),
  [
    ("train.num_stps", "train.num_steps", "train."),
    ("relations.weights.qz", "relations.weights.vq", "relations.weights."),
    ("fly", "", ""),
    ("lang.x", "lang", ""),
    ("seeds[0]", "", ""),
  ],
)
def test_an_unknown_field_names_those_of_its_section(
  capsys, given, near, section
):
  flag = f"--config.{given}=1"
  line = error_of(capsys, "distill", RECIPE, flag, "--workdir=runs/x")
  known = [name for name in field_names() if name.startswith(section)]
  guess = f"did you mean {near!r}? Known" if near else "known"
  assert line == (
    f"unknown config field {given!r}; {guess}: {', '.join(known)}."
  )


@pytest.mark.parametrize(
  "flag",
  ["train.num_steps=many", "seed=1.5", "mesh.data=", "train=3"],
)
def test_a_field_of_another_type(capsys, flag):
  line = error_of(capsys, "distill", RECIPE, f"--config.{flag}")
  assert flag in line


@pytest.mark.parametrize("index", ["0", "9", "x"])
def test_elements_of_a_field_cannot_be_changed(capsys, index):
  recipe = f"--config={ROOT}/configs/ud.py"
  flag = f"--config.seeds[{index}]=3"
  line = error_of(capsys, "finetune", "ud", recipe, flag, "--workdir=runs/x")
  assert line.startswith("a field of --config cannot be changed: ")


def test_a_section_that_is_replaced_needs_all_of_its_fields(capsys):
  flag = "--config.relations.weights={'qq': 1.0}"
  line = error_of(capsys, "distill", RECIPE, flag, "--workdir=runs/x")
  assert "lacks fields such as relations.weights.kk, " in line


def test_a_recipe_that_reads_a_file_which_is_not_there(capsys, tmp_path):
  (tmp_path / "recipe.py").write_text("get_config = lambda: open('/no/text')")
  words = "distill", f"--config={tmp_path}/recipe.py", "--workdir=x"
  for more in ((), ("--config.seed=3",)):
    line = error_of(capsys, *words, *more)
    assert line == (
      "the recipe of --config cannot be read: [Errno 2] No such file or "
      "directory: '/no/text'."
    )


@pytest.mark.parametrize(
  ("code", "words"),
  [
    ("def get_config(:", ("SyntaxError", "recipe.py, line 1")),
    ("import not_there", ("ModuleNotFoundError", "'not_there'")),
    ("get_config = lambda: {}['size']", ("KeyError: 'size'",)),
    ("get_config = lambda: 1 / 0", ("ZeroDivisionError",)),
    ("x = 1", ("'get_config'",)),
    ("get_config = dict", ("gives dict", "default_config()")),
    (
      "import ml_collections\nget_config = ml_collections.ConfigDict",
      ("lacks fields such as checkpoint.every, ",),
    ),
    (
      "from time_jax.config.distill import default_config\n"
      "def get_config():\n"
      "  c = default_config()\n"
      "  c.train.num_stps = 3\n"
      "  return c\n",
      ("num_stps", "num_steps"),
    ),
  ],
)
def test_a_recipe_that_fails(capsys, tmp_path, code, words):
  (tmp_path / "recipe.py").write_text(code)
  flags = f"--config={tmp_path}/recipe.py", f"--workdir={tmp_path}/run"
  line = error_of(capsys, "distill", *flags)
  assert all(word in line for word in words), line
  assert not (tmp_path / "run").exists()


def test_arguments_that_a_recipe_does_not_know(capsys):
  line = error_of(capsys, "distill", f"{RECIPE}:lang=xx")
  assert line.startswith("unknown language 'xx'; similar: xh (Xhosa); ")
  line = error_of(capsys, "distill", f"{RECIPE}:wings=2")
  assert "no argument 'wings'; known: lang, size, teacher, corpus." in line
