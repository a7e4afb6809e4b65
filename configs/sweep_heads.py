"""Relation heads: in how many are the projections compared best?

  python -m time_jax sweep configs/sweep_heads.py:lang=da,ud=FOLDER \
    --workdir=runs/da-heads

Arguments: `ud`, a folder with an unpacked release of Universal Dependencies;
others are those of configs/paper.py. R has to divide the widths of teacher and
student: 1024 and 384 for XLM-R-Large and s.
"""

import pathlib

from time_jax.sweeps.chain import PAPER, distil_and_score, same_text
from time_jax.sweeps.grid import Sweep


def get_sweep(ud: str, size: str = "s", **recipe: str) -> Sweep:
  """Returns the grid for `ud=..,size=..,lang=..,teacher=..,corpus=..`."""

  def stages(folder: pathlib.Path, heads: int) -> list[list[str]]:
    return distil_and_score(
      folder,
      ud,
      {**recipe, "size": size},
      f"--config.relations.num_heads={heads}",
      same_text(folder),
      training=PAPER,
    )

  return Sweep(axes={"heads": (16, 32, 64, 128)}, stages=stages, x="heads")
