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

A path may contain commas. Where NAME= follows one, write a backslash before the
comma, so that it does not begin the next argument.

A linear layer on the last hidden state of each word's first subword predicts
the word's tag; `seqeval` scores whole entities. TiME (arXiv 2512.14645) states
5 epochs of batches of 64, length 400, seed 101 and the best epoch by dev. Not
stated, and ours: AdamW (0.9, 0.999) at 5e-4, the encoder at a tenth of it, 50
steps of warm-up and a cosine, dropout 0.1, weight decay 0.01.

Tags are IOB2 or IOB1. Columns are separated by tabs or spaces, the token first
and the tag last, as in CoNLL-2003. Lines with -DOCSTART- are skipped, and the
"da:" before all tokens of WikiANN's own files is removed. The run prints which
format it found. A test file without any name has undefined scores; a dev file
without any is refused, since no epoch could be chosen by it.

Of a sentence of more than 400 tokens the rest is read separately, not left out.
An I- tag that no entity precedes is written as B-, which changes no entity as
seqeval counts by default.

Several seeds: --config.seeds="(0,1,2)" gives mean and standard deviation.
"""

from ml_collections import ConfigDict

from time_jax.config import ner_config, with_arguments


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,model=..,train=..,dev=..,data=..`."""
  return with_arguments(ner_config(), arguments)
