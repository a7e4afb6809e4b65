"""Models: does a student beat its teacher's lower layers, and by how much?

  python -m time_jax sweep --workdir=runs/da-models --results=results/da \
    configs/sweep_models.py:lang=da,data=FOLDER,teacher=xlmr_base,tasks=ud+ner,\
models=teacher+lower-s+lower-xs+s+xs,seeds=0+1

Arguments: `data`, a folder with the annotated files of the language, such as an
unpacked release of Universal Dependencies; `tasks`, of ud, ner and qa; `seeds`
of the fine-tuning, which is alike for all; `ud`, its recipe for treebanks, such
as configs/ud_small.py, and `epochs`, how many of them are run instead of its
own; and `models`, SIZE being m, s or xs:

  teacher      the teacher itself
  SIZE         a student, distilled by configs/time.py
  paper-SIZE   a student, distilled by configs/paper.py
  lower-SIZE   as many of the teacher's lowest layers, not distilled; made
               narrower where the student is
  random-SIZE  the shape alone with random weights, not distilled

All other arguments are those of configs/time.py, except `size`. `pickle=1` lets
`finetune` read a teacher that has no safetensors; for `distill`, add
--config.teacher.allow_pickle. Each model is a point, and its scores have its
name as their label:

  python -m time_jax report results/da/model=*/*/scores.json \
    --teacher=teacher --lower=s:lower-s,xs:lower-xs --out=report
"""

import pathlib

from time_jax.catalog import languages, teachers
from time_jax.config import STUDENT_SIZES, recipe_arguments
from time_jax.core.errors import UserError
from time_jax.hf import own_teacher
from time_jax.sweeps.chain import (
  PAPER,
  SCORING,
  TRAINING,
  distil,
  fine_tune,
  same_text,
  write_start,
)
from time_jax.sweeps.grid import Sweep

_FILE = "configs/sweep_models.py"
_KINDS = ("", "paper-", "lower-", "random-")


def _path(teacher: str, lang: str) -> str:
  """Returns the hub id of a teacher that is given by its short name."""
  return teachers.teacher(teacher, languages.find(lang)).path


def get_sweep(
  data: str,
  teacher: str = "xlmr_large",
  models: str = "teacher+lower-s+lower-xs+s+xs",
  tasks: str = "ud",
  seeds: str = "",
  ud: str = SCORING,
  epochs: str = "",
  pickle: str = "",
  **recipe: str,
) -> Sweep:
  """Returns the points for `lang=..,teacher=..,data=..,models=..,tasks=..`."""
  recipe, lang = {**recipe, "teacher": teacher}, recipe.get("lang", "en")
  numbers = recipe_arguments.numbers(seeds, "seeds", _FILE)
  all_epochs = recipe_arguments.numbers(epochs, "epochs", _FILE)
  if len(all_epochs) > 1 or pickle not in ("", "1"):
    raise UserError(
      f"{_FILE}: epochs={epochs!r}, pickle={pickle!r}; expected one number of "
      "epochs or none, and pickle=1 or nothing."
    )
  sized = (kind + size for kind in _KINDS for size in STUDENT_SIZES)
  known = ["teacher", *sized]
  chosen = recipe_arguments.several(models, "models", _FILE, known)
  scoring = {"ud": ud, "ner": "configs/ner.py", "qa": "configs/qa.py"}
  scored = recipe_arguments.several(tasks, "tasks", _FILE, scoring)

  def made(
    folder: pathlib.Path, model: str
  ) -> tuple[pathlib.Path | str, list[list[str]]]:
    """Returns a model, and the commands that make it."""
    if model == "teacher":
      place = own_teacher.is_place(teacher)
      return teacher if place else _path(teacher, lang), []
    student, text = folder / "student", same_text(folder)
    kind, _, size = model.rpartition("-")
    own = {**recipe, "size": size}
    if kind == "lower":
      lower = "--config.student.init_from=teacher:lower"
      return student / "start", [write_start(student, own, text, lower)]
    if kind == "random":
      random = write_start(student, own, text, training=PAPER)
      return student / "start", [random]
    training = PAPER if kind else TRAINING
    return student, distil(student, own, text, training=training)

  def stages(folder: pathlib.Path, model: str) -> list[list[str]]:
    place, commands = made(folder, model)
    files = {"lang": lang, "model": str(place), "data": data}
    fields = [f"--config.label={model}"]
    if pickle and model == "teacher":
      fields.append("--config.allow_pickle=True")
    for task in scored:
      own = [*fields]
      if task == "ud":
        own += [f"--config.train.epochs={n}" for n in all_epochs]
        own += [f"--config.train.patience={n}" for n in all_epochs]
      command = scoring[task], folder / task, files, numbers, *own
      commands.append(fine_tune(task, *command))
    return commands

  return Sweep(axes={"model": chosen}, stages=stages)
