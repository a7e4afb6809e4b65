"""Question answering: how good is an encoder at finding answers in a text?

  python -m time_jax finetune qa --workdir=runs/en-qa \
    --config=configs/qa.py:lang=en,model=runs/en-m,train=train.json,\
dev=dev.json,test=xquad.en.json

Arguments:
  lang              ISO code: for MLQA, says how answers are compared
  model             a workdir, a folder, a hub id, package:NAME/FOLDER
  train, dev, test  files in the layout of SQuAD v1.1, plain or .gz

A path may contain commas. Where NAME= follows one, write a backslash before the
comma, so that it does not begin the next argument.

From the last hidden state each token gets two scores, of being the first and
the last of the answer. A window holds the question and as much of its context
as fits; long contexts are read in windows that overlap, and the most probable
span of all windows is the answer. TiME (arXiv 2512.14645) states only that the
task is extractive and scored by EM and F1, so the recipe is ours: windows of
384 tokens, 128 of the context in common, answers of up to 30 (as BERT's), 3
epochs of batches of 32, AdamW (0.9, 0.999) at 5e-4, the encoder at a tenth of
it, 100 steps of warm-up and a cosine, dropout 0.1, the best epoch by F1 on dev.

Where a question has several answers, each counts as right, and the first is
trained on. Scores follow SQuAD v1.1, by which XQuAD is scored too, or with
--config.data.rules=mlqa the rules of MLQA for the language (en, es, hi, vi, de,
ar, zh). Questions that SQuAD v2 marks as impossible are left out.

Predictions are written as SQuAD's program reads them: {id: text}. Several
seeds: --config.seeds="(0,1,2)" gives mean and standard deviation.
"""

from ml_collections import ConfigDict

from time_jax.config import qa_config, with_arguments


def get_config(arguments: str = "") -> ConfigDict:
  """Returns the recipe for `lang=..,model=..,train=..,dev=..,test=..`."""
  return with_arguments(qa_config(), arguments)
