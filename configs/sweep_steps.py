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
others read. The plot is of LAS against the tokens of text that a student saw.
"""

import pathlib

from time_jax.config import STUDENT_SIZES, recipe_arguments
from time_jax.sweeps.chain import (
  SCORING,
  distil_and_score,
  same_text,
  start_and_score,
)
from time_jax.sweeps.grid import TOKENS, Sweep

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
  numbers = recipe_arguments.numbers(seeds, "seeds", _FILE)
  scored = {"scoring": scoring, "seeds": numbers}
  counts = recipe_arguments.numbers(steps, "steps", _FILE)

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
      "steps": sorted(counts, reverse=True),
    },
    stages=stages,
    x=TOKENS,
    y="LAS",
  )
