"""The commands that fine-tune encoders and use what comes of it."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from time_jax.config.command import (
  Command,
  config_flag,
  path,
  typed_fields,
  workdir_flag,
)
from time_jax.config.finetune import RANGES, ner_config, qa_config, ud_config
from time_jax.core.errors import UserError


def _folder(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "folder", None, "Of a fine-tuned model.", flag_values=values
  )


def _report(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, text in (
    ("teacher", "Label of the model that others are compared with."),
    ("out", "Folder to write."),
  ):
    flags.DEFINE_string(name, None, text, flag_values=values)
  flags.DEFINE_enum(
    "by",
    None,
    ["feats", "upos"],
    "Scores of every feature, or of every part of speech, too.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "workdirs",
    None,
    "Of `finetune`; folders of `bench inference`, too.",
    flag_values=values,
  )


def _run_ud(args: Any) -> int:
  module = importlib.import_module("time_jax.evals.ud.task")
  return module.finetune_ud(args.config, path(args.workdir), typed_fields(args))


def _run_ner(args: Any) -> int:
  module = importlib.import_module("time_jax.evals.ner.task")
  return module.finetune_ner(
    args.config, path(args.workdir), typed_fields(args)
  )


def _run_qa(args: Any) -> int:
  module = importlib.import_module("time_jax.evals.qa.task")
  return module.finetune_qa(args.config, path(args.workdir), typed_fields(args))


def _run_predict(args: Any) -> int:
  # Python has no stream where it was closed before the start (`<&-`).
  for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
    if stream is None:
      raise UserError(
        f"the standard {name} is closed; expected text to annotate on the "
        "standard input and room for the result on the output, as in "
        "`predict MODEL < text > out`."
      )
  module = importlib.import_module("time_jax.evals.predict.predict")
  return module.predict(path(args.folder), sys.stdin.buffer, sys.stdout)


def _run_report(args: Any) -> int:
  module = importlib.import_module("time_jax.report.report")
  return module.report(
    [path(word) for word in args.workdirs],
    teacher=args.teacher or "",
    by=args.by or "",
    out=path(args.out),
  )


EVALS = {
  "finetune ud": Command(
    "Train an encoder to tag and parse a treebank; official scores.",
    "finetune ud --config=configs/ud.py:lang=ga,model=runs/ga-xs,"
    "train=TRAIN.conllu,dev=DEV.conllu,test=TEST.conllu --workdir=runs/ga-ud",
    (config_flag, workdir_flag),
    ("config", "workdir"),
    _run_ud,
    recipe=ud_config,
    ranges=RANGES,
  ),
  "finetune ner": Command(
    "Train an encoder to find names; entity F1 by seqeval.",
    "finetune ner --config=configs/ner.py:lang=da,model=runs/da-xs,"
    "train=TRAIN.iob2,dev=DEV.iob2,test=TEST.iob2 --workdir=runs/da-ner",
    (config_flag, workdir_flag),
    ("config", "workdir"),
    _run_ner,
    recipe=ner_config,
    ranges=RANGES,
  ),
  "finetune qa": Command(
    "Train an encoder to find answers in a text; EM and F1 of SQuAD.",
    "finetune qa --config=configs/qa.py:lang=en,model=runs/en-xs,"
    "train=TRAIN.json,dev=DEV.json,test=TEST.json --workdir=runs/en-qa",
    (config_flag, workdir_flag),
    ("config", "workdir"),
    _run_qa,
    recipe=qa_config,
    ranges=RANGES,
  ),
  "predict": Command(
    "Annotate text, a sentence a line, or answer questions (SQuAD's JSON).",
    "predict runs/ga-ud/seed-0/model < text > out.conllu",
    (_folder,),
    ("folder",),
    _run_predict,
    argument="folder",
  ),
  "report": Command(
    "The table of languages and models, from the files of results.",
    "report runs/ga-ud runs/ga-ner runs/speed --teacher=runs/teacher "
    "--out=runs/report",
    (_report,),
    ("workdirs", "out"),
    _run_report,
    argument="workdirs",
    once=True,
  ),
}
