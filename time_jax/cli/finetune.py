"""Commands that fine-tune encoders, and use and compare the results."""

import io
import sys
from typing import Literal

from time_jax.config.command import Command, RecipeCommand
from time_jax.config.finetune import (
  RANGES,
  EngineName,
  ner_config,
  qa_config,
  split_config,
  ud_config,
)
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path


class _Finetune(RecipeCommand):
  """What the commands `finetune TASK` have in common."""

  ranges = RANGES
  workdir: Path  # Folder of the run.

  def run(self) -> int:
    """Trains a model for each seed, and evaluates it."""
    from time_jax.evals.common.finetuning import finetune
    from time_jax.evals.predict.tasks import TASKS

    kind = TASKS[self.name.removeprefix("finetune ")]
    return finetune(self.config, self.workdir, kind, self.changed_fields)


class FinetuneUd(_Finetune):
  """Train an encoder to tag and parse a treebank; official scores."""

  name = "finetune ud"
  example = (
    "finetune ud --config=configs/ud.py:lang=ga,model=runs/ga-xs,"
    "train=TRAIN.conllu,dev=DEV.conllu,test=TEST.conllu --workdir=runs/ga-ud"
  )
  recipe = staticmethod(ud_config)


class FinetuneNer(_Finetune):
  """Train an encoder to find names; entity F1 by seqeval."""

  name = "finetune ner"
  example = (
    "finetune ner --config=configs/ner.py:lang=da,model=runs/da-xs,"
    "train=TRAIN.iob2,dev=DEV.iob2,test=TEST.iob2 --workdir=runs/da-ner"
  )
  recipe = staticmethod(ner_config)


class FinetuneQa(_Finetune):
  """Train an encoder to find answers in a text; EM and F1 of SQuAD."""

  name = "finetune qa"
  example = (
    "finetune qa --config=configs/qa.py:lang=en,model=runs/en-xs,"
    "train=TRAIN.json,dev=DEV.json,test=TEST.json --workdir=runs/en-qa"
  )
  recipe = staticmethod(qa_config)


class FinetuneSplit(_Finetune):
  """Train an encoder to split raw text into sentences, tokens and words."""

  name = "finetune split"
  example = (
    "finetune split --config=configs/split.py:lang=fr,model=runs/fr-xs,"
    "train=TRAIN.conllu,dev=DEV.conllu,test=TEST.conllu --workdir=runs/fr-split"
  )
  recipe = staticmethod(split_config)


class Probe(Command):
  """Score encoders as they are on a treebank, in seconds: closed form."""

  name = "probe"
  example = (
    "probe runs/ga-xs@400 runs/ga-xs@1500 --train=TRAIN.conllu --dev=DEV.conllu"
  )
  argument = "models"
  once = True
  # Workdirs, the same with @STEP, or folders of models.
  models: tuple[str, ...]
  train: Path  # CoNLL-U file to fit; its first 20,000 words are read.
  dev: Path  # CoNLL-U file to score; its first 10,000 words are read.
  # Teacher: also say how much of it each model's last hidden state explains.
  teacher: str = ""
  json: Path | None = None  # File to write the scores into.
  # Read pytorch_model.bin where there is no safetensors.
  allow_pickle: bool = False

  def run(self) -> int:
    """Prints what every hidden state of each model knows."""
    from time_jax.evals.probing import command
    from time_jax.evals.probing.treebank import Treebank

    treebank = Treebank.read(self.train, self.dev)
    return command.probe_command(
      self.models, treebank, self.json, self.teacher, self.allow_pickle
    )


class Predict(Command):
  """Annotate text, a sentence a line, or answer questions (SQuAD's JSON)."""

  name = "predict"
  example = "predict runs/ga-ud/seed-0/model < text > out.conllu"
  argument = "folder"
  folder: str  # Folder of a fine-tuned model, or its hub id OWNER/NAME.
  # What computes; auto: on a CPU onnxruntime if it is installed and knows the
  # encoder, else JAX.
  engine: EngineName = "auto"
  int8: bool = False  # Matrices in 8 bits, by onnxruntime: faster, less exact.
  # Folder or hub id of a model of `finetune split`: the input is raw text.
  split: str = ""

  def run(self) -> int:
    """Reads the standard input, and writes to the standard output."""
    # Python has no stream where it was closed before the start (`<&-`).
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
      if stream is None:
        raise UserError(
          f"the standard {name} is closed; expected text to annotate on the "
          "standard input and room for the result on the output, as in "
          "`predict MODEL < text > out`."
        )
    from time_jax.evals.common import model_folder
    from time_jax.evals.predict import predict

    folder = model_folder.find(self.folder)
    split = model_folder.find(self.split) if self.split else None
    # Text goes out as it comes in, whatever the language of the terminal.
    if isinstance(sys.stdout, io.TextIOWrapper):
      sys.stdout.reconfigure(encoding="utf-8")
    return predict.predict(
      folder, sys.stdin.buffer, sys.stdout, self.engine, self.int8, split
    )


class Score(Command):
  """Score what any program has annotated, for the tables of `report`."""

  name = "score"
  example = (
    "score spacy.conllu --gold=fr_sequoia-ud-test.conllu --label=spaCy "
    "--lang=fr --metrics=UPOS,Lemmas,UAS,LAS --out=runs/fr-spacy"
  )
  argument = "predicted"
  # The annotated file: of the gold file's own words, or, of raw, of its text.
  predicted: Path
  gold: Path  # The right annotation: CoNLL-U, or IOB2.
  # Treebank, names, or a treebank made of raw text, with words of its own.
  task: Literal["ud", "ner", "raw"] = "ud"
  label: str  # What reports call the program.
  lang: str  # ISO code.
  # Those that mean the same for the program as for the gold file; by default
  # all of the task, and of raw those that the file has.
  metrics: tuple[str, ...] = ()
  out: Path  # Folder to write.

  def run(self) -> int:
    """Writes and prints the scores."""
    from time_jax.evals.predict.score import score_command

    return score_command(
      self.predicted,
      self.gold,
      task=self.task,
      label=self.label,
      lang=self.lang,
      metrics=self.metrics,
      out=self.out,
    )


class Report(Command):
  """The table of languages and models, from the files of results."""

  name = "report"
  example = (
    "report runs/ga-ud runs/ga-ner runs/speed --teacher=runs/teacher "
    "--out=runs/report"
  )
  argument = "workdirs"
  once = True
  # Workdirs of `finetune`, and folders of `bench inference`.
  workdirs: tuple[Path, ...]
  teacher: str = ""  # Label of the model that others are compared with.
  # LABEL:LABEL,...: which model is to beat which, such as students and the
  # teacher's lower layers; it says how much of the gap up to the teacher each
  # of them closes.
  lower: str = ""
  out: Path  # Folder to write.
  # Scores of every feature, or of every part of speech, too.
  by: Literal["feats", "upos"] | None = None

  def run(self) -> int:
    """Writes and prints the table."""
    from time_jax.report import report

    return report.report(
      self.workdirs,
      teacher=self.teacher,
      by=self.by or "",
      out=self.out,
      lower=self.lower,
    )
