"""Text: how little of it is enough?

  python -m time_jax sweep configs/sweep_tokens.py:lang=da,ud=FOLDER \
    --workdir=runs/da-tokens

Arguments: `ud`, a folder with an unpacked release of Universal Dependencies;
others are those of configs/time.py. Each point prepares its own text and trains
for the same number of steps, so that less text is read more often.
"""

import pathlib

from time_jax.sweeps.chain import distil_and_score
from time_jax.sweeps.grid import TOKENS, Sweep


def get_sweep(ud: str, size: str = "s", **recipe: str) -> Sweep:
  """Returns the grid for `ud=..,size=..,lang=..,teacher=..,corpus=..`."""

  def stages(folder: pathlib.Path, millions: int) -> list[list[str]]:
    limit = f"--config.data.max_tokens={millions * 1_000_000}"
    return distil_and_score(folder, ud, {**recipe, "size": size}, limit)

  return Sweep(axes={"millions": (1, 10, 100, 1000)}, stages=stages, x=TOKENS)
