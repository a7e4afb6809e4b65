"""Universal Dependencies where a treebank has few sentences: many small steps.

  python -m time_jax finetune ud --workdir=runs/hu-ud \
    --config=configs/ud_small.py:lang=hu,model=runs/hu-xs,train=hu-train.conllu,\
dev=hu-dev.conllu,test=hu-test.conllu

Arguments are those of configs/ud.py. A thousand sentences are 30 batches of 32:
there the averaged weights, 250 steps of warm-up and a few epochs of the paper's
recipe end before the parser has learnt much. Here batches have 8 sentences, the
warm-up 50 steps, the average a memory of about 100, and all 12 epochs are run.
"""

from ml_collections import ConfigDict

from time_jax.config import ud_config, with_arguments


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,model=..,train=..,dev=..,data=..`."""
  config = ud_config()
  train = config.train
  train.epochs = train.patience = 12
  train.batch_size = 8
  train.warmup_steps = 50
  train.ema = 0.99
  return with_arguments(config, arguments)
