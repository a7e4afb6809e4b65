"""Universal Dependencies: how good is an encoder for tagging and parsing?

  python -m time_jax finetune ud --workdir=runs/da-ud \
    --config=configs/ud.py:lang=da,model=runs/da-m,train=da-train.conllu,\
dev=da-dev.conllu,test=da-test.conllu

Arguments:
  lang              ISO code, for reports
  model             a workdir, a folder, a hub id, package:NAME/FOLDER
  train, dev, test  CoNLL-U files of a treebank, plain or .gz
  data              instead of them: a folder with an unpacked release of UD

A path may contain commas. Where NAME= follows one, write a backslash before the
comma, so that it does not begin the next argument.

One joint model on top of the encoder predicts UPOS, XPOS, FEATS, lemmas, heads
and relations; `udtools` scores it on gold tokenisation. The recipe is that of
TiME (arXiv 2512.14645) as far as it is stated: 30 epochs of batches of 32,
AdamW (0.9, 0.99), dropout 0.3, label smoothing 0.1, averaged weights (0.995),
250 steps of warm-up and a cosine, encoder at a tenth of the learning rate, end
when MLAS + BLEX on dev falls. The learning rate is the default of its code,
5e-4; its script passes 2e-5.

Several seeds: --config.seeds="(0,1,2)" gives mean and standard deviation.
"""

from ml_collections import ConfigDict

from time_jax.config import ud_config, with_arguments


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,model=..,train=..,dev=..,data=..`."""
  return with_arguments(ud_config(), arguments)
