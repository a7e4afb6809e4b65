"""The usual commands of a point: distil by the paper's recipe, and score."""

import pathlib
from collections.abc import Mapping

from time_jax.config import recipe_arguments


def distil_and_score(
  folder: pathlib.Path, ud: str, recipe: Mapping[str, str], *fields: str
) -> list[list[str]]:
  """Trains a student, chooses a checkpoint, fine-tunes it on a treebank.

  Args:
    folder: of the point.
    ud: a folder with a release of Universal Dependencies.
    recipe: arguments of configs/time.py.
    *fields: what is different in this point, --config.FIELD=VALUE.
  """
  student = folder / "student"
  arguments = recipe_arguments.join(recipe)
  lang = recipe.get("lang", "en")
  scored = recipe_arguments.join(
    {"lang": lang, "model": str(student), "data": ud}
  )
  return [
    [
      *("distill", f"--config=configs/time.py:{arguments}"),
      *(f"--workdir={student}", *fields),
    ],
    ["choose", f"--workdir={student}"],
    [
      *("finetune", "ud", f"--config=configs/ud.py:{scored}"),
      f"--workdir={folder / 'ud'}",
    ],
  ]


def same_text(folder: pathlib.Path) -> str:
  """The flag by which all points share one folder of prepared text."""
  return f"--config.data.folder={folder.parent / 'data'}"
