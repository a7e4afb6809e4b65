"""XLM-R-Large at full size with random weights, and random tokens.

For work on speed and memory, without a download: shapes, FLOPs and bytes are
those of the paper's main teacher (24 x 1024, 250 002 tokens), run up to layer
19. The student learns nothing of use.

  python -m time_jax distill --config=configs/xlmr_random.py:size=s \
    --config.train.num_steps=20 --workdir=/tmp/xlmr_random

Argument: `size` (m, s, xs) of the student; m+s+xs are three of one teacher.
Memory: the teacher's 18 blocks and token embeddings are 0.5 G parameters in
bfloat16; the students of `paper.py` add 12 bytes a parameter. Speed:
benchmarks.md.
"""

from ml_collections import ConfigDict

from time_jax.catalog.teachers import XLMR_LARGE, XLMR_LARGE_LAYER
from time_jax.config import (
  STUDENT_SIZES,
  default_config,
  name_students,
  recipe_arguments,
)


def get_config(arguments: str = "size=m") -> ConfigDict:
  """Returns the recipe for `size=..`."""
  config = default_config()
  config.teacher.path = "random"
  config.teacher.layer = XLMR_LARGE_LAYER
  config.teacher.architecture = ConfigDict(XLMR_LARGE)
  sizes = recipe_arguments.several(
    arguments.removeprefix("size="),
    "size",
    "configs/xlmr_random.py",
    STUDENT_SIZES,
  )
  config.student.update(STUDENT_SIZES[sizes[0]])
  if len(sizes) > 1:
    name_students(
      config,
      {
        size: {f"student.{name}": n for name, n in STUDENT_SIZES[size].items()}
        for size in sizes
      },
    )
  config.data.synthetic_rows = 100_000
  config.train.num_steps = 100
  config.checkpoint.every = 1_000_000
  config.checkpoint.keep_every = 1_000_000
  config.log.every = 5
  return config
