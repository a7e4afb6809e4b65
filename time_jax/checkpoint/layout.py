"""Where the checkpoints of a run lie, read without JAX.

WORKDIR/checkpoints/STEP/params, rest, ema   trees of arrays
                        /metadata, metrics   JSON
                        /sha256.json         checksums, see `checksums`
WORKDIR/damaged/STEP                         set aside, see `quarantine`
"""

import time
from collections.abc import Sequence

from time_jax.core.storage.paths import Path

FOLDER = "checkpoints"
DAMAGED = "damaged"
METADATA = "metadata"  # the record of the run, beside the trees
METRICS = "metrics"  # scores; Orbax reads those of all checkpoints at its start
_MOMENT = 0.3  # seconds


def step_folders(workdir: Path) -> list[Path]:
  """Returns the folders of a run's checkpoints by step; empty: none.

  Args:
    workdir: folder of the run.
  """
  try:
    paths = list((workdir / FOLDER).iterdir())
  except OSError:
    return []
  steps = [p for p in paths if p.name.isdecimal() and p.is_dir()]
  return sorted(steps, key=lambda p: int(p.name))


def are_vanishing(folders: Sequence[Path]) -> bool:
  """Returns whether some checkpoints are gone, or are being deleted just now.

  It takes a moment, so it is asked only where one of them cannot be read. A
  damaged one stays as it is; of one that is being deleted, files vanish.

  Args:
    folders: folders of checkpoints that were all there before.
  """

  def count() -> int:
    return sum(1 for folder in folders for _ in folder.rglob("*"))

  if not all(folder.is_dir() for folder in folders):
    return True
  before = count()
  time.sleep(_MOMENT)
  return count() < before or not all(folder.is_dir() for folder in folders)
