"""Every command that a document or a help text prints is one that runs."""

import ast
import itertools
import re
import shlex
import tomllib

import documented
import pytest

from time_jax.cli import main
from time_jax.cli.commands import COMMANDS
from time_jax.config import command_line, finetune
from time_jax.config.command import RecipeCommand
from time_jax.config.distill import check_config, default_config, flatten
from time_jax.core.errors import UserError
from time_jax.run import assembly
from time_jax.serve.command import make_parser
from time_jax.sweeps import grid, points

CHEAP = ("doctor", "languages", "teachers")
# Flags of other programs, and names that stand for any.
FOREIGN = (
  *("--help", "--network", "--shm-size", "--gres", "--ntasks-per-node"),
  *("--cpus-per-task", "--config.FIELD"),
)
TASKS = (
  *(finetune.ud_config, finetune.ner_config),
  *(finetune.qa_config, finetune.split_config),
)
FIELDS = {
  name
  for make in (default_config, *TASKS)
  for name, _ in flatten(make().to_dict())
}
EXAMPLES = [shlex.split(c.example) for c in COMMANDS.values()]


def collected():
  """(where, words) of every command that is printed to be typed."""
  for path in documented.MARKDOWN:
    for words in documented.in_markdown(path.read_text())[0]:
      yield path.name, documented.ready(words)
  for path in documented.SCRIPTS:
    for words in documented.in_script(path):
      yield path.name, documented.ready(words)
  for path in documented.RECIPES:
    for words in documented.in_recipe(path):
      yield path.name, documented.ready(words)
  for words in EXAMPLES:
    yield "help", documented.ready(documented.until_redirected(words))


@pytest.fixture
def check(monkeypatch, tmp_path):
  """A function that takes words as the command line does, but runs nothing."""
  monkeypatch.chdir(documented.ROOT)
  for lang, split in itertools.product(
    ("da", "fr", "hu"), ("train", "dev", "test")
  ):
    (tmp_path / f"{lang}_x-ud-{split}.conllu").touch()
    (tmp_path / f"{lang}-{split}.iob2").touch()
  monkeypatch.setattr(assembly, "teacher_config", lambda config: None)

  def check_words(words):
    command, rest = command_line.split(words, COMMANDS)
    values = command_line.parse(command, rest)
    if command.name.startswith("finetune"):
      finetune.check_recipe(values.config)
    elif isinstance(values, RecipeCommand):
      check_config(values.config)
      # All that was seen of HPLT is pickles, which are to be allowed by name.
      teacher = values.config.teacher
      assert teacher.allow_pickle or not teacher.path.startswith("HPLT/")
    if command.name == "sweep":
      folder = rf"\g<1>={tmp_path}"
      file = re.sub(r"\b(ud|data)=(FOLDER|UD|ud)\b", folder, values.file)
      # The folder of a teacher that only its user has.
      file = re.sub(r"\bteacher=teachers/\w+", "teacher=xlmr_base", file)
      points.make_points(grid.load(file), tmp_path / "run", COMMANDS)

  return check_words


@pytest.mark.parametrize(
  ("where", "words"), [pytest.param(*one, id=one[0]) for one in collected()]
)
def test_a_printed_command_is_accepted(check, where, words):
  check(words)


def test_commands_are_found_wherever_they_are_printed():
  places = [where for where, _ in collected()]
  for name, least in (
    ("README.md", 5),
    ("runs.md", 1),
    ("publishing.md", 4),
    ("RESULTS.md", 6),
    ("benchmarks.md", 8),
    ("launching.md", 9),
    ("jobset.yaml", 1),
    ("local_processes.sh", 1),
    ("time.py", 1),
    ("help", len(COMMANDS)),
  ):
    assert places.count(name) >= least, name


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("distill --config=configs/quickstart.py --wrkdir=x", "'wrkdir'"),
    ("report runs/x", "needs --out"),
    ("status runs/x --plot", "--plot needs a value"),
    (
      "finetune ud --config.epochs=3 --config=configs/ud.py --workdir=x",
      "'epochs'",
    ),
    ("distill --config=configs/time.py:lng=da --workdir=x", "'lng'"),
    (
      "distill --config=configs/tme.py --workdir=x",
      "no recipe 'configs/tme.py'",
    ),
    (
      "distill --config=configs/time.py --config.train.num_steps=0 --workdir=x",
      "train.num_steps=0",
    ),
    ("finetune ud --config=configs/ud.py --workdir=x", "model is empty"),
    ("bench inference --models=a --text=t --tokenizer=t", "after each NAME="),
    ("sweep configs/sweep_heads.py:ud=UD,lng=da --workdir=x", "'lng'"),
    ("sweep configs/sweep_heads.py --workdir=x", "needs ud"),
  ],
)
def test_a_command_that_is_printed_wrong_is_noticed(check, words, message):
  with pytest.raises(UserError) as caught:
    check(shlex.split(words))
  assert message in str(caught.value)


def excerpts():
  for path in documented.MARKDOWN:
    _, found, _ = documented.in_markdown(path.read_text())
    yield from ((path.name, words) for words in found)


@pytest.mark.parametrize(("where", "words"), excerpts())
def test_an_excerpt_of_a_command_names_what_there_is(check, where, words):
  """It is parsed where it has values; in a usage, its flags are looked up."""
  name = documented.name_of(words)
  flags = [word.strip("[]") for word in words if word.startswith(("--", "[--"))]
  if any("=" not in flag for flag in flags) or any("[" in w for w in words):
    with pytest.raises(UserError) as caught:
      check([*name.split(), "--no_such_flag=1"])
    known = re.findall(r"--\w+", str(caught.value).partition("Known")[2])
    assert {flag.partition("=")[0] for flag in flags} - {"--config"} <= {*known}
  else:
    check(documented.ready(words, complete=False))


def flags_alone():
  return {
    word
    for path in documented.MARKDOWN
    for word in documented.in_markdown(path.read_text())[2]
  }


def test_flags_that_are_named_alone_exist(capsys):
  known = set()
  for name in COMMANDS:
    assert main.main([*name.split(), "--help"]) == 0
    known |= set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.M))
  known |= {*make_parser()._option_string_actions}
  wrong = []
  for word in flags_alone():
    flag = re.sub(r"^--no(?=private)", "--", word.partition("=")[0])
    # What one of several students has of its own is a field of all configs.
    flag = re.sub(r"(?<=^--config\.)students\.\w+\.", "", flag)
    field = flag.removeprefix("--config.")
    parts = {
      f"{part}" for name in FIELDS for part in (name, name.split(".")[0])
    }
    if flag not in FOREIGN and flag not in known and field not in parts:
      wrong.append(word)
  assert not wrong


def test_what_is_to_be_installed_is_to_be_had():
  """The package is on no index, so that it is installed from its folder."""
  project = tomllib.loads((documented.ROOT / "pyproject.toml").read_text())
  code = (documented.ROOT / "time_jax").rglob("*.py")
  text = "".join(path.read_text() for path in [*documented.MARKDOWN, *code])
  assert "time-jax[" not in text
  named = set(re.findall(r"-e\s+'\.\[(\w+)\]'", text)) - {"NAME"}
  assert named and named <= {*project["project"]["optional-dependencies"]}


def printed():
  """What the code prints after `python -m time_jax`; X: what is filled in."""
  for path in sorted((documented.ROOT / "time_jax").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        parts = [getattr(part, "value", "X") for part in node.values]
        text = "".join(p if isinstance(p, str) else "X" for p in parts)
        for _, found in re.findall(r"(python -m time_jax )([^`]*)", text):
          yield path.stem, found


@pytest.mark.parametrize(("where", "text"), printed())
def test_what_the_code_advises_to_type_exists(capsys, where, text):
  words = text.split()
  if words[0] in ("X", "COMMAND"):
    return
  name = documented.name_of(words)
  assert name, text
  assert main.main([*name.split(), "--help"]) == 0
  shown = capsys.readouterr().out
  for flag in re.findall(r"--\w+", text):
    assert f"  {flag} " in shown, text


@pytest.mark.parametrize("words", [w for _, w in collected() if w[0] in CHEAP])
def test_what_is_cheap_is_run(capsys, words):
  assert main.main(words) == 0
  assert capsys.readouterr().out
