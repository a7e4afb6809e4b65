"""XLM-R-Large at full size with random weights, and random tokens.

For work on speed and memory, without a download: shapes, FLOPs and bytes are
those of the paper's main teacher (24 x 1024, 250 002 tokens), run up to layer
19. The student learns nothing of use.

  python -m time_jax distill --config=configs/xlmr_random.py:size=s \
    --config.train.num_steps=20 --workdir=/tmp/xlmr_random

Argument: `size` (m, s, xs) of the student. Memory: the teacher's 18 blocks and
token embeddings are 0.5 G parameters in bfloat16; the students of `time.py` add
12 bytes a parameter. Speed: benchmarks.md.
"""

from ml_collections import ConfigDict

from time_jax.config import STUDENT_SIZES, default_config
from time_jax.core.errors import UserError


def get_config(arguments: str = "size=m") -> ConfigDict:
  """Returns the recipe for `size=..`."""
  config = default_config()
  config.teacher.path = "random"
  config.teacher.layer = 19
  config.teacher.architecture = ConfigDict(
    {
      "model_type": "xlm-roberta",
      "vocab_size": 250_002,
      "hidden_size": 1024,
      "num_hidden_layers": 24,
      "num_attention_heads": 16,
      "intermediate_size": 4096,
      "max_position_embeddings": 514,
      "type_vocab_size": 1,
      "layer_norm_eps": 1e-5,
      "pad_token_id": 1,
    }
  )
  size = arguments.removeprefix("size=")
  if size not in STUDENT_SIZES:
    raise UserError(
      f"configs/xlmr_random.py: unknown {arguments!r}; expected size= and one "
      f"of {', '.join(STUDENT_SIZES)}."
    )
  config.student.update(STUDENT_SIZES[size])
  config.data.synthetic_rows = 100_000
  config.train.num_steps = 100
  config.checkpoint.every = 1_000_000
  config.checkpoint.keep_every = 1_000_000
  config.log.every = 5
  return config
