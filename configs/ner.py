"""Named entities: how good is an encoder at finding names?

  python -m time_jax finetune ner --workdir=runs/da-ner \
    --config=configs/ner.py:lang=da,model=runs/da-m,train=da-train.iob2,\
dev=da-dev.iob2,test=da-test.iob2

Arguments:
  lang              ISO code, for reports
  model             a workdir, a folder, a hub id, package:NAME/FOLDER
  train, dev, test  files of a token and its tag a line, plain or .gz; or
                    parquet; or hf:OWNER/NAME/PATTERN, a file on the hub
  data              instead of them: wikiann, or a folder of such files

A path may have commas. Where something like NAME= follows one, a backslash
before the comma keeps it from beginning the next argument.

A linear layer on the first subword of every word, in the last hidden state,
chooses its tag; `seqeval` scores whole entities. TiME (arXiv 2512.14645) states
5 epochs of batches of 64, length 400, seed 101 and the best epoch by dev. Not
stated, and ours: AdamW (0.9, 0.999) at 5e-4, the encoder at a tenth of it, 50
steps of warm-up and a cosine, dropout 0.1, weight decay 0.01.

Tags are IOB2 or IOB1. Columns have tabs or spaces between them, the token first
and the tag last, as in CoNLL-2003; a line -DOCSTART- is no token, and the "da:"
before all tokens of WikiANN's own files is taken off. What a file is read as is
said. A test file without a name has undefined scores, and a dev file without
one is refused, since no epoch could be chosen by it.

What is behind 400 tokens of a sentence is read separately, not left out. An
I- tag that no entity precedes is written as B-, which changes no entity as
seqeval counts by default.

Several seeds: --config.seeds="(0,1,2)" gives mean and standard deviation.
"""

from ml_collections import ConfigDict

from time_jax.config import ner_config, with_arguments


def get_config(arguments: str = "") -> ConfigDict:
  """The recipe for `lang=..,model=..,train=..,dev=..,test=..,data=..`."""
  return with_arguments(ner_config(), arguments)
