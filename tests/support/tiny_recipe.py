"""The tests' recipe, `tests/support/tiny_recipe.py:FOLDER` (conftest.tiny)."""

from time_jax.config.distill import default_config


def get_config(folder):
  config = default_config()
  config.lang = "en"
  config.teacher.path = f"{folder}/teacher"
  config.teacher.layer = 2
  config.teacher.dtype = "float32"
  config.student.num_layers = 2
  config.student.hidden_size = 16
  config.student.intermediate_size = 32
  config.student.num_heads = 2
  config.student.max_positions = 64
  # What draws it is a fifth of what a run compiles: tests of it ask for it.
  config.student.dropout = 0.0
  config.student.attention_dropout = 0.0
  config.relations.num_heads = 4
  config.data.train = (f"{folder}/train.jsonl",)
  config.data.validation = (f"{folder}/validation.txt",)
  config.data.seq_len = 32
  config.train.num_steps = 30
  config.train.global_batch_size = 8
  config.train.peak_lr = 5e-3
  config.train.warmup_steps = 5
  config.train.dtype = "float32"
  config.checkpoint.every = 10
  config.checkpoint.keep_every = 20
  config.eval.every = 10
  config.eval.global_batch_size = 8
  config.log.every = 1
  return config
