"""The teacher's layer: which one is distilled best?

  python -m time_jax sweep configs/sweep_layers.py:lang=da,ud=FOLDER \
    --workdir=runs/da-layers

Arguments: `ud`, a folder with an unpacked release of Universal Dependencies;
others are those of configs/paper.py. The layers are those around MiniLMv2's
choice for a teacher of 24.
"""

import pathlib

from time_jax.sweeps.chain import PAPER, distil_and_score, same_text
from time_jax.sweeps.grid import Sweep


def get_sweep(ud: str, size: str = "s", **recipe: str) -> Sweep:
  """Returns the grid for `ud=..,size=..,lang=..,teacher=..,corpus=..`."""

  def stages(folder: pathlib.Path, layer: int) -> list[list[str]]:
    return distil_and_score(
      folder,
      ud,
      {**recipe, "size": size},
      f"--config.teacher.layer={layer}",
      same_text(folder),
      training=PAPER,
    )

  return Sweep(axes={"layer": (15, 17, 19, 21, 23)}, stages=stages, x="layer")
