"""Recipes and sweep files that import modules by their former paths."""

import importlib
import sys

import pytest

from time_jax import former_paths
from time_jax.cli import main
from time_jax.sweeps import grid, points

RECIPE = """
import tiny_recipe
from time_jax import corpora, languages, own_teacher, recipe_arguments, teachers
from time_jax.config import STUDENT_SIZES
from time_jax.errors import UserError


def get_config(arguments):
  values = recipe_arguments.parse(arguments, __file__, ("folder", "size"))
  if values.get("size") not in STUDENT_SIZES:
    raise UserError(f"no size {values}")
  assert languages.find("da") and teachers.teachers()
  assert own_teacher.own_teacher
  assert corpora
  return tiny_recipe.get_config(values["folder"])
"""
SWEEP = """
from time_jax.evals.recipe import ud_config, with_arguments
from time_jax.sweeps.chain import distil_and_score, same_text
from time_jax.sweeps.grid import TOKENS, Sweep


def get_sweep(recipe):
  def stages(folder, seed):
    flags = f"--config.seed={seed}", f"--workdir={folder}/student"
    return [["distill", f"--config={recipe}", *flags, same_text(folder)]]

  assert ud_config and with_arguments and distil_and_score and TOKENS
  return Sweep(axes={"seed": (1, 2)}, stages=stages, x="seed")
"""


@pytest.fixture
def not_yet_imported(monkeypatch):
  for former in former_paths.FORMER:
    monkeypatch.delitem(sys.modules, former, raising=False)


@pytest.mark.usefixtures("not_yet_imported")
@pytest.mark.parametrize("former", former_paths.FORMER)
def test_a_former_path_gives_the_same_objects(former):
  now = vars(importlib.import_module(former_paths.FORMER[former]))
  with pytest.warns(DeprecationWarning, match=f"{former} is now ") as warned:
    module = importlib.import_module(former)
  assert len(warned) == 1
  public = {name for name in now if name[0] != "_"}
  assert public and all(vars(module)[name] is now[name] for name in public)


@pytest.mark.usefixtures("not_yet_imported")
def test_a_recipe_and_a_sweep_of_before_the_move(tiny, tmp_path):
  recipe, sweep = tmp_path / "recipe.py", tmp_path / "sweep.py"
  recipe.write_text(RECIPE)
  sweep.write_text(SWEEP)
  with pytest.warns(DeprecationWarning, match="time_jax.evals.recipe is"):
    found = points.make_points(
      grid.load(f"{sweep}:recipe={recipe}:folder={tiny}\\,size=xs"),
      tmp_path,
      main.COMMANDS,
    )
  configs = [point.stages[0].values.config for point in found]
  assert [config.seed for config in configs] == [1, 2]
  assert configs[0].teacher.path == f"{tiny}/teacher"
