"""Raw text: where do sentences, tokens and words begin?

  python -m time_jax finetune split --workdir=runs/fr-split \
    --config=configs/split.py:lang=fr,model=runs/fr-m,train=fr-train.conllu,\
dev=fr-dev.conllu,test=fr-test.conllu

Arguments:
  lang              ISO code, for reports
  model             a workdir, a folder, a hub id, package:NAME/FOLDER
  train, dev, test  treebanks in CoNLL-U, plain or .gz; or
                    hf:OWNER/NAME/PATTERN, a file on the hub

The text of a treebank is its tokens with the spaces between them. It is cut
into atoms: runs of letters, runs of digits, and single characters. A model says
of each atom whether it goes on with a token, begins one, or begins a sentence,
and into which words a token such as `des` is split. udtools scores what it
finds: F1 of tokens, sentences and words; the best epoch is chosen by the sum of
the last two.

The recipe is ours: TiME's figures begin with the words of treebanks.

Several seeds: --config.seeds="(0,1,2)" gives mean and standard deviation.
"""

from ml_collections import ConfigDict

from time_jax.config import split_config, with_arguments


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,model=..,train=..,dev=..,test=..`."""
  return with_arguments(split_config(), arguments)
