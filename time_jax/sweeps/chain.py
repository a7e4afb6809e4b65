"""The usual commands of a point: distil by a recipe, and score."""

import pathlib
from collections.abc import Mapping, Sequence

from time_jax.config import recipe_arguments

TRAINING = "configs/time.py"
PAPER = "configs/paper.py"
SCORING = "configs/ud.py"


def distil(
  student: pathlib.Path,
  recipe: Mapping[str, str],
  *fields: str,
  training: str = TRAINING,
) -> list[list[str]]:
  """Returns commands that train a student and choose its checkpoint.

  Args:
    student: its workdir.
    recipe: arguments of the recipe `training`.
    *fields: --config.FIELD=VALUE of this point.
    training: recipe of the distillation.
  """
  config = _config(training, recipe)
  return [
    ["distill", config, f"--workdir={student}", *fields],
    ["choose", f"--workdir={student}"],
  ]


def write_start(
  student: pathlib.Path,
  recipe: Mapping[str, str],
  *fields: str,
  training: str = TRAINING,
) -> list[str]:
  """Returns the command that writes what a student begins with.

  Args:
    student: its workdir; the model is in its folder `start`.
    recipe: see `distil`.
    *fields: see there.
    training: see there.
  """
  config = _config(training, recipe)
  return ["start", config, f"--workdir={student}", *fields]


def fine_tune(
  task: str,
  scoring: str,
  workdir: pathlib.Path,
  arguments: Mapping[str, str],
  seeds: Sequence[int] = (),
  *fields: str,
) -> list[str]:
  """Returns the command that fine-tunes a model and scores it.

  Args:
    task: ud, ner or qa.
    scoring: its recipe.
    workdir: folder for the results.
    arguments: of that recipe.
    seeds: none: those of the recipe.
    *fields: more of the recipe's, as --config.FIELD=VALUE.
  """
  command = ["finetune", task, _config(scoring, arguments)]
  if seeds:
    command.append(f"--config.seeds={(*seeds,)}")
  return [*command, *fields, f"--workdir={workdir}"]


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
    *distil(student, recipe, *fields, training=training),
    _score(folder, student, ud, recipe, scoring, seeds),
  ]


def start_and_score(
  folder: pathlib.Path,
  ud: str,
  recipe: Mapping[str, str],
  *fields: str,
  scoring: str = SCORING,
  seeds: Sequence[int] = (),
) -> list[list[str]]:
  """Returns commands that fine-tune what a point's student begins with.

  Args:
    folder: see `distil_and_score`.
    ud: see there.
    recipe: see there.
    *fields: see there.
    scoring: see there.
    seeds: see there.
  """
  student = folder / "student"
  return [
    write_start(student, recipe, *fields),
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
  given = {"lang": recipe.get("lang", "en"), "model": str(model), "data": ud}
  return fine_tune("ud", scoring, folder / "ud", given, seeds)


def same_text(folder: pathlib.Path) -> str:
  """Returns the flag by which all points share one folder of prepared text."""
  return f"--config.data.folder={folder.parent / 'data'}"
