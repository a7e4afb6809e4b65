"""The usual commands of a point: distil by a recipe, and score."""

import pathlib
from collections.abc import Mapping

from time_jax.config import recipe_arguments

SCORING = "configs/ud.py"


def distil_and_score(
  folder: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  *fields: str,
  scoring: str = SCORING,
) -> list[list[str]]:
  """Returns commands that train, choose and fine-tune the student of a point.

  Args:
    folder: folder of the point.
    ud: folder with a release of Universal Dependencies.
    recipe: arguments of configs/time.py.
    *fields: --config.FIELD=VALUE of this point.
    scoring: recipe of the fine-tuning.
  """
  student = folder / "student"
  return [
    ["distill", _training(recipe), f"--workdir={student}", *fields],
    ["choose", f"--workdir={student}"],
    _score(folder, student, ud, recipe, scoring),
  ]


def start_and_score(
  folder: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  *fields: str,
  scoring: str = SCORING,
) -> list[list[str]]:
  """Returns commands that fine-tune what a point's student begins with.

  Args:
    folder: see `distil_and_score`.
    ud: see there.
    recipe: see there.
    *fields: see there.
    scoring: see there.
  """
  student = folder / "student"
  return [
    ["start", _training(recipe), f"--workdir={student}", *fields],
    _score(folder, student / "start", ud, recipe, scoring),
  ]


def _training(recipe: Mapping[str, str]) -> str:
  return f"--config=configs/time.py:{recipe_arguments.join(recipe)}"


def _score(
  folder: pathlib.Path,
  model: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  scoring: str,
) -> list[str]:
  lang = recipe.get("lang", "en")
  given = {"lang": lang, "model": str(model), "data": ud}
  task = f"--config={scoring}:{recipe_arguments.join(given)}"
  return ["finetune", "ud", task, f"--workdir={folder / 'ud'}"]


def same_text(folder: pathlib.Path) -> str:
  """Returns the flag by which all points share one folder of prepared text."""
  return f"--config.data.folder={folder.parent / 'data'}"
