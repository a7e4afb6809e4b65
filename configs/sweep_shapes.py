"""Shapes: how deep and how wide may a student be, and what does it score?

  python -m time_jax sweep --workdir=runs/da-shapes \
    configs/sweep_shapes.py:lang=da,ud=FOLDER,text=FILE,tokenizer=NAME,limit_ms=5

Arguments: `ud`, a folder with an unpacked release of Universal Dependencies;
`text`, a source of sentences, a document each, and `tokenizer`, the teacher's
(that of a teacher's folder by default), to measure the latency with;
`limit_ms`, of one sentence: a shape that is slower is not trained. Others are
those of configs/paper.py, but for its size.
"""

import pathlib

from time_jax.hf import own_teacher
from time_jax.sweeps.chain import PAPER, distil_and_score, same_text
from time_jax.sweeps.grid import Sweep


def get_sweep(
  ud: str,
  text: str,
  limit_ms: str,
  tokenizer: str = "",
  **recipe: str,
) -> Sweep:
  """Returns the grid for `ud=..,text=..,limit_ms=..,tokenizer=..,lang=..`."""
  teacher = recipe.get("teacher", "")
  own = teacher if own_teacher.is_place(teacher) else ""
  tokenizer = tokenizer or own or "FacebookAI/xlm-roberta-large"

  def stages(folder: pathlib.Path, layers: int, width: int) -> list[list[str]]:
    measure = [
      *("bench", "inference", f"--models=student=random:{layers}x{width}"),
      *(f"--text={text}", f"--tokenizer={tokenizer}", "--engines=jax"),
      *("--batch_sizes=1", f"--json={folder / 'inference.json'}"),
    ]
    shape = {
      "num_layers": layers,
      "hidden_size": width,
      "intermediate_size": 4 * width,
    }
    fields = (f"--config.student.{name}={n}" for name, n in shape.items())
    fields = (*fields, same_text(folder))
    then = distil_and_score(folder, ud, recipe, *fields, training=PAPER)
    return [measure, *then]

  return Sweep(
    axes={"layers": (2, 4, 6, 12), "width": (192, 384, 768)},
    stages=stages,
    limit_ms=float(limit_ms),
  )
