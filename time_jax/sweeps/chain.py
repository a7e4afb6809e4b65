"""The usual commands of a point: distil by a recipe, and score."""

import pathlib
from collections.abc import Mapping, Sequence

from time_jax.config import recipe_arguments

TRAINING = "configs/time.py"
PAPER = "configs/paper.py"
SCORING = "configs/ud.py"


def distil_and_score(
  folder: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  *fields: str,
  training: str = TRAINING,
  scoring: str = SCORING,
  seeds: Sequence[int] = (),
) -> list[list[str]]:
  """Returns commands that train, choose and fine-tune the student of a point.

  Args:
    folder: folder of the point.
    ud: folder with a release of Universal Dependencies.
    recipe: arguments of the recipe `training`.
    *fields: --config.FIELD=VALUE of this point.
    training: recipe of the distillation.
    scoring: recipe of the fine-tuning.
    seeds: of the fine-tuning; none: those of its recipe.
  """
  student = folder / "student"
  return [
    ["distill", _config(training, recipe), f"--workdir={student}", *fields],
    ["choose", f"--workdir={student}"],
    _score(folder, student, ud, recipe, scoring, seeds),
  ]


def start_and_score(
  folder: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  *fields: str,
  training: str = TRAINING,
  scoring: str = SCORING,
  seeds: Sequence[int] = (),
) -> list[list[str]]:
  """Returns commands that fine-tune what a point's student begins with.

  Args:
    folder: see `distil_and_score`.
    ud: see there.
    recipe: see there.
    *fields: see there.
    training: see there.
    scoring: see there.
    seeds: see there.
  """
  student = folder / "student"
  return [
    ["start", _config(training, recipe), f"--workdir={student}", *fields],
    _score(folder, student / "start", ud, recipe, scoring, seeds),
  ]


def _config(file: str, arguments: Mapping[str, str]) -> str:
  return f"--config={file}:{recipe_arguments.join(arguments)}"


def _score(
  folder: pathlib.Path,
  model: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  scoring: str,
  seeds: Sequence[int],
) -> list[str]:
  lang = recipe.get("lang", "en")
  given = {"lang": lang, "model": str(model), "data": ud}
  command = ["finetune", "ud", _config(scoring, given)]
  if seeds:
    command.append(f"--config.seeds={(*seeds,)}")
  return [*command, f"--workdir={folder / 'ud'}"]


def same_text(folder: pathlib.Path) -> str:
  """Returns the flag by which all points share one folder of prepared text."""
  return f"--config.data.folder={folder.parent / 'data'}"
