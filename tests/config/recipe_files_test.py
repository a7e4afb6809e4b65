"""Recipes and sweeps are found by path or by name, from any folder."""

import pathlib

import pytest

from time_jax.cli import main
from time_jax.config import recipe_files
from time_jax.core.errors import UserError
from time_jax.sweeps import grid

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = [
  *("ner", "paper", "qa", "quickstart", "split", "time", "ud", "ud_small"),
  "xlmr_random",
]
SWEEPS = [
  *("sweep_heads", "sweep_layers", "sweep_models", "sweep_shapes"),
  *("sweep_steps", "sweep_tokens"),
]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
  """Another folder than that of the repository."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize("name", ["time", "configs/time.py", "time.py"])
def test_a_shipped_recipe_is_found_by_name(name):
  assert recipe_files.find(name, "recipe") == ROOT / "configs" / "time.py"


def test_a_file_comes_before_a_name(elsewhere):
  mine = elsewhere / "configs" / "time.py"
  mine.parent.mkdir()
  mine.touch()
  assert recipe_files.find("time", "recipe").resolve() == mine
  (elsewhere / "time").touch()
  assert recipe_files.find("time", "recipe") == pathlib.Path("time")


@pytest.mark.parametrize(
  ("name", "kind", "advice"),
  [
    ("configs/tim.py", "recipe", f"{', '.join(RECIPES)}: did you mean time?"),
    ("", "recipe", f"{', '.join(RECIPES)}."),
    ("sweep_head", "sweep", f"{', '.join(SWEEPS)}: did you mean sweep_heads?"),
  ],
)
def test_what_is_not_found_is_told_with_what_there_is(
  elsewhere, name, kind, advice
):
  with pytest.raises(UserError) as caught:
    recipe_files.find(name, kind)
  assert str(caught.value) == (
    f"no {kind} {name!r} in {elsewhere}; expected a file, or one of {advice}"
  )


@pytest.mark.parametrize("name", ["sweep_heads", "my_sweep.py"])
def test_a_sweep_is_no_recipe(elsewhere, name):
  (elsewhere / "my_sweep.py").write_text("def get_sweep(): ...")
  with pytest.raises(UserError) as caught:
    recipe_files.load_config(name)
  assert str(caught.value) == (
    f"{name} is a sweep, expected a recipe; run it by `time_jax sweep`, or "
    "give another file."
  )


@pytest.mark.parametrize("name", ["time", "my_recipe.py"])
def test_a_recipe_is_no_sweep(elsewhere, name):
  (elsewhere / "my_recipe.py").write_text("def get_config(): ...")
  with pytest.raises(UserError, match=f"{name} is a recipe, expected a sweep"):
    grid.load(name)


@pytest.mark.parametrize(
  ("program", "reason"),
  [
    ("import sys; sys.exit('no text here.')", "SystemExit: no text here"),
    ("import sys; sys.exit(0)", "SystemExit: 0"),
    ("raise ValueError", "ValueError"),
    ("raise KeyError('lang')", "KeyError: 'lang'"),
    ("", "AttributeError: module '_recipe_mine' has no attribute"),
  ],
)
def test_what_a_file_raises_is_told_with_its_name(
  elsewhere, capsys, program, reason
):
  (elsewhere / "mine.py").write_text(program)
  assert main.main(["prepare", "--config=mine.py", "--workdir=w"]) == 2
  said = capsys.readouterr().err
  assert said.startswith(f"time_jax: error: the recipe mine.py fails: {reason}")
  assert said.endswith(".\n") and ": .\n" not in said
  with pytest.raises(UserError, match=f"^mine.py fails: {reason}"):
    grid.load("mine.py")


def test_each_recipe_is_executed_anew(elsewhere):
  """Nothing of a file that had the same name is left."""
  file = elsewhere / "mine.py"
  file.write_text("first = 1")
  assert recipe_files.load_module(file).first == 1
  file.write_text("second = 2222")
  assert not hasattr(recipe_files.load_module(file), "first")


@pytest.mark.parametrize("name", [*RECIPES, *SWEEPS])
def test_each_is_listed_and_can_be_copied(capsys, elsewhere, name):
  assert main.main(["recipes"]) == 0
  listed = capsys.readouterr().out
  summary = recipe_files.summary(ROOT / "configs" / f"{name}.py")
  assert summary and f"\n  {name:<14} {summary}\n" in listed
  assert main.main(["recipe", name]) == 0
  copy = capsys.readouterr().out
  assert copy == (ROOT / "configs" / f"{name}.py").read_text()


def test_a_copy_of_the_quickstart_finds_its_text(elsewhere):
  original = recipe_files.load_config("quickstart").data.train
  copy = elsewhere / "mine.py"
  copy.write_text((ROOT / "configs" / "quickstart.py").read_text())
  text = recipe_files.load_config("mine.py").data.train
  assert text == original and pathlib.Path(text[0]).is_file()


def test_the_quickstart_by_path_has_the_text_beside_it(monkeypatch):
  """As a config.json of before has it, which a run is compared with."""
  monkeypatch.chdir(ROOT)
  for spec in ("configs/quickstart.py", "quickstart"):
    text = recipe_files.load_config(spec).data.train
    assert text == ("configs/quickstart_text/train.jsonl.gz",)
