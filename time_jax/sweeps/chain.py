"""The usual commands of a point: distil by the paper's recipe, and score."""

import pathlib
from collections.abc import Mapping

from time_jax.config import recipe_arguments


def distil_and_score(
  folder: pathlib.Path, ud: str, recipe: Mapping[str, str], *fields: str
) -> list[list[str]]:
  """Returns commands that train, choose and fine-tune the student of a point.

  Args:
    folder: folder of the point.
    ud: folder with a release of Universal Dependencies.
    recipe: arguments of configs/time.py.
    *fields: --config.FIELD=VALUE of this point.
  """
  student = folder / "student"
  scored = {"lang": recipe.get("lang", "en"), "model": str(student), "data": ud}
  training = f"--config=configs/time.py:{recipe_arguments.join(recipe)}"
  scoring = f"--config=configs/ud.py:{recipe_arguments.join(scored)}"
  return [
    ["distill", training, f"--workdir={student}", *fields],
    ["choose", f"--workdir={student}"],
    ["finetune", "ud", scoring, f"--workdir={folder / 'ud'}"],
  ]


def same_text(folder: pathlib.Path) -> str:
  """Returns the flag by which all points share one folder of prepared text."""
  return f"--config.data.folder={folder.parent / 'data'}"
