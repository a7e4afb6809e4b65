"""Steps: from how much training on does a student score above its start?

  python -m time_jax sweep --workdir=runs/da-steps \
    configs/sweep_steps.py:lang=da,ud=FOLDER,sizes=s+xs,steps=0+100+400+1500

Arguments: `ud`, a folder with an unpacked release of Universal Dependencies;
`sizes` and `steps`, each one or several; 0 steps are the student's start, which
is scored without distilling it, or other layers of the teacher in its place:
with start=teacher:lower the lowest ones; `scoring`, the recipe of the
fine-tuning, such as configs/ud_small.py, and `seeds` of it, as 0+1. Others are
those of configs/time.py, but for its size. Each number of steps is a run of its
own, with a whole schedule; the largest comes first, whose text has all that the
others read.
"""

import pathlib

from time_jax.config import STUDENT_SIZES, recipe_arguments
from time_jax.core.errors import UserError
from time_jax.sweeps.chain import (
  SCORING,
  distil_and_score,
  same_text,
  start_and_score,
)
from time_jax.sweeps.grid import Sweep

_FILE = "configs/sweep_steps.py"


def get_sweep(
  ud: str,
  sizes: str = "s+xs",
  steps: str = "0+100+400+1500",
  scoring: str = SCORING,
  seeds: str = "",
  start: str = "",
  **recipe: str,
) -> Sweep:
  """Returns the grid for `ud=..,sizes=..,steps=..,lang=..,teacher=..`."""
  numbers = [_number(part, "seeds") for part in seeds.split("+") if seeds]
  scored = {"scoring": scoring, "seeds": numbers}
  counts = sorted(_number(part, "steps") for part in steps.split("+"))[::-1]

  def stages(folder: pathlib.Path, size: str, steps: int) -> list[list[str]]:
    own = {**recipe, "size": size}
    text = same_text(folder)
    if not steps:
      # A narrower one is fitted on text: what there is, or that of one step.
      fields = ["--config.train.num_steps=1"]
      if start:
        fields.append(f"--config.student.init_from={start}")
      return start_and_score(folder, ud, own, text, *fields, **scored)
    run = ("train.num_steps", "checkpoint.every", "eval.every")
    fields = (f"--config.{name}={steps}" for name in run)
    return distil_and_score(folder, ud, own, text, *fields, **scored)

  return Sweep(
    axes={
      "size": recipe_arguments.several(sizes, "size", _FILE, STUDENT_SIZES),
      "steps": counts,
    },
    stages=stages,
    x="steps",
    y="LAS",
  )


def _number(text: str, name: str) -> int:
  if not text.isdecimal():
    raise UserError(
      f"{_FILE}: {name}={text!r}; expected whole numbers with + between them, "
      "such as 0+100."
    )
  return int(text)
