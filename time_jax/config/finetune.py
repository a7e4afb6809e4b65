"""Every field of `finetune`, with its default, its meaning and its range.

A file in `configs/` starts from one of these and changes what it needs.
"""

from typing import Literal

from ml_collections import ConfigDict

from time_jax.config.distill import (
  COUNT,
  DECAY,
  SEED,
  SHARED_RANGES,
  SIZE,
)
from time_jax.config.fields import flatten
from time_jax.config.ranges import out_of_range, real, refuse, whole
from time_jax.config.recipe_arguments import parse

EngineName = Literal["auto", "jax", "onnxruntime"]  # what computes in `predict`


def _any_config(task: str) -> ConfigDict:
  """Returns the fields that every task has; a task changes some of them."""
  config = ConfigDict()
  config.task = task
  config.lang = ""  # ISO code, for reports
  # A workdir of `distill`, a folder, a hub id OWNER/NAME[@REVISION], or
  # package:NAME/FOLDER.
  config.model = ""
  config.label = ""  # of the model, in reports; empty: its name
  config.allow_pickle = False  # of a model without safetensors
  config.step = -1  # of a workdir's checkpoint; -1: the chosen or newest
  config.init = "model"  # or "random": only shape and tokenizer of it
  config.seeds = (0,)  # one run each; of weights, dropout and order

  config.data = d = ConfigDict()
  # Files, plain or .gz, or hf:OWNER/NAME[@REVISION]/PATTERN of a dataset on the
  # hub; those of `ner` may be parquet. Test may stay empty.
  d.train = d.dev = d.test = ""
  d.source = ""  # where empty ones are looked up, see `split_files.resolve`
  # Tokens in the rows of a batch: a program is compiled for each that is used.
  # Sentences share rows of 128; shorter ones are for one sentence in predict.
  d.buckets = (32, 64, 128, 256)
  d.max_tokens = 8192  # of a batch; long sentences share it with fewer others

  config.train = n = ConfigDict()
  n.epochs = 30
  n.patience = 1  # epochs below the best on dev before the run ends
  n.batch_size = 32  # sentences, or windows of text, of all devices
  # The reference's default; its script passes 2e-5.
  n.peak_lr = 5e-4
  n.encoder_factor = 0.1  # of the learning rate
  n.warmup_steps = 250  # then a cosine to 0; shorter than the run
  n.b1 = 0.9
  n.b2 = 0.99
  n.eps = 1e-8
  n.weight_decay = 0.01  # not stated; not on biases and LayerNorm
  n.clip_norm = 1.0  # not stated; 0: no limit
  n.max_skipped = 10  # skipped steps in a row before the run ends
  n.label_smoothing = 0.1
  n.dropout = 0.3  # above the encoder
  n.encoder_dropout = 0.1  # of a BERT; other families have none
  n.ema = 0.995  # decay of the averaged weights that are evaluated
  n.dtype = "float32"  # or "bfloat16", of the computation
  n.watchdog = 1800  # seconds without a step before the run ends; 0: never

  config.mesh = m = ConfigDict()
  m.data = -1  # replicas; -1: all devices that are left
  m.fsdp = 1  # ways to split parameters and optimizer state
  m.tensor = 1  # ways to split the work inside a layer

  config.checkpoint = c = ConfigDict()
  c.every = 500  # steps, besides the end of every epoch

  config.log = g = ConfigDict()
  g.every = 20  # steps
  return config


def ud_config() -> ConfigDict:
  """Returns the recipe of TiME (2512.14645) for Universal Dependencies."""
  config = _any_config("ud")
  # Widths, of which the paper says nothing.
  config.heads = h = ConfigDict()
  h.hidden = 384  # of the classifiers
  h.arc = 256  # of words that look for their heads
  h.relation = 128  # of words that look for their relations
  config.lock()
  return config


def _plain_config(task: str) -> ConfigDict:
  """Returns the fields of a task for short runs: no smoothing, no averages."""
  config = _any_config(task)
  n = config.train
  n.b2 = 0.999
  n.label_smoothing = 0.0
  n.dropout = 0.1
  n.ema = 0.0  # no average
  return config


def ner_config() -> ConfigDict:
  """Returns a recipe for named entities: TiME's, as far as it is stated."""
  config = _plain_config("ner")
  config.seeds = (101,)
  config.data.longest = 400  # tokens; a longer sentence is read in parts
  n = config.train
  n.epochs = 5
  n.batch_size = 64
  # Stated is the above, the first subword, and the best epoch on dev. The rest
  # is ours: the learning rates of `ud`, and a plain recipe.
  n.patience = 5  # all epochs are run
  n.warmup_steps = 50
  config.lock()
  return config


def qa_config() -> ConfigDict:
  """Returns a recipe for extractive questions: ours, TiME states none."""
  config = _plain_config("qa")
  d = config.data
  d.buckets = (128, 192, 256, 384)
  d.max_tokens = 12288
  d.longest = 384  # tokens of a window: the question and some of its context
  d.overlap = 128  # tokens of the context that windows have in common
  d.longest_answer = 30  # tokens, of predicted ones
  d.rules = "squad"  # or "mlqa": how answers are compared; XQuAD's are SQuAD's
  n = config.train
  n.epochs = 3
  n.patience = 3  # all epochs are run
  n.warmup_steps = 100
  config.lock()
  return config


def split_config() -> ConfigDict:
  """Returns a recipe for raw text: ours, TiME has none."""
  config = _plain_config("split")
  d = config.data
  d.buckets = (64, 128, 256, 384)
  d.longest = 384  # tokens; a longer window of text is read in parts
  config.heads = h = ConfigDict()
  h.hidden = 128  # width of the classifiers
  n = config.train
  n.epochs = 10
  n.patience = 10  # all epochs are run
  n.batch_size = 16
  n.warmup_steps = 50
  config.lock()
  return config


def with_arguments(config: ConfigDict, arguments: str) -> ConfigDict:
  """Sets the arguments of a config file in a config, see `recipe_arguments`."""
  places = {
    **{name: (config, name) for name in ("lang", "model")},
    **{name: (config.data, name) for name in ("train", "dev", "test")},
    "data": (config.data, "source"),
  }
  file = f"configs/{config.task}.py"
  for name, value in parse(arguments, file, places).items():
    place, field = places[name]
    place[field] = value
  return config


# Of every field that is a number, in any task; `--help` shows them.
RANGES = SHARED_RANGES | {
  "step": whole(-1, 1_000_000_000),
  "seeds": SEED,
  "data.buckets": SIZE,
  "data.max_tokens": COUNT,
  "data.longest": SIZE,
  "data.overlap": SIZE,
  "data.longest_answer": SIZE,
  "heads.hidden": SIZE,
  "heads.arc": SIZE,
  "heads.relation": SIZE,
  "train.epochs": SIZE,
  "train.patience": SIZE,
  "train.batch_size": SIZE,
  "train.encoder_factor": real(0, 1000),
  "train.label_smoothing": DECAY,
  "train.dropout": DECAY,
  "train.encoder_dropout": DECAY,
}
CHOICES = {
  "init": ("model", "random"),
  "train.dtype": ("float32", "bfloat16"),
  "data.rules": ("squad", "mlqa"),
}


def check_recipe(config: ConfigDict) -> None:
  """Raises UserError for values that no run could use, all at once."""
  fields = dict(flatten(config.to_dict()))
  needed = {"model": "a workdir, a folder or a hub id"}
  if not config.data.source:
    needed |= {
      "data.train": "a file to train on, or data.source",
      "data.dev": "a file to choose the best epoch by, or data.source",
    }
  problems = [
    f"{name} is empty, expected {expected}"
    for name, expected in needed.items()
    if not fields[name]
  ]
  problems += out_of_range(fields, RANGES, CHOICES)
  seeds = tuple(config.seeds)
  if not seeds or len(set(seeds)) < len(seeds):
    problems.append(
      f"seeds={seeds}, expected different whole numbers such as (0, 1, 2)"
    )
  refuse(problems)
