"""The recipe of the random teacher, small enough for tests."""

import pathlib
import runpy

ROOT = pathlib.Path(__file__).parents[2]
PATH = ROOT / "configs" / "xlmr_random.py"
RECIPE = f"--config={PATH}:size=xs"
FIELDS = {
  "teacher.architecture.vocab_size": 64,
  "teacher.architecture.hidden_size": 32,
  "teacher.architecture.intermediate_size": 64,
  "teacher.architecture.num_hidden_layers": 3,
  "teacher.architecture.num_attention_heads": 2,
  "teacher.layer": 3,
  "teacher.dtype": "float32",
  "student.num_layers": 2,
  "student.hidden_size": 16,
  "student.intermediate_size": 32,
  "student.num_heads": 2,
  "student.dropout": 0.0,
  "student.attention_dropout": 0.0,
  "relations.num_heads": 4,
  "data.seq_len": 128,
  "train.global_batch_size": 16,
  "train.dtype": "float32",
}


def _fields(changes):
  return FIELDS | {k.replace("__", "."): v for k, v in changes.items()}


def flags(**changes):
  """Returns the recipe as flags; dots in names are double underscores here."""
  return [RECIPE, *(f"--config.{k}={v}" for k, v in _fields(changes).items())]


def make_config(**changes):
  """Returns the recipe as a config; see `flags`."""
  config = runpy.run_path(str(PATH))["get_config"]("size=xs")
  config.update_from_flattened_dict(_fields(changes))
  return config
