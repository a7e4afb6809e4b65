"""A tiny encoder for the sample questions, and how to fine-tune it."""

import pathlib

import tiny_ud
import tokenizers

from time_jax.config import finetune
from time_jax.evals.qa import squad
from time_jax.evals.qa.task import Qa

QA = pathlib.Path(__file__).parents[1] / "evals" / "qa"
SIZES = (
  "--config.data.buckets=(96,)",
  "--config.data.overlap=24",
  "--config.train.batch_size=16",
  "--config.train.warmup_steps=5",
  "--config.log.every=1",
)


def write_encoder(folder: pathlib.Path) -> pathlib.Path:
  """A random BERT of 2 layers with a tokenizer for pairs of the samples."""
  questions = squad.read(QA / "en-train.json")
  texts = [f"{question.context} {question.text}" for question in questions]
  tiny_ud.write_bert(folder, texts, tokens=900, longest=96)
  path = str(folder / "tokenizer.json")
  tokenizer = tokenizers.Tokenizer.from_file(path)
  ends = ("[CLS]", "[SEP]")
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[(end, tokenizer.token_to_id(end)) for end in ends],
  )
  tokenizer.save(path)
  return folder


def write_model(folder: pathlib.Path, mesh) -> pathlib.Path:
  """The folder of a model of qa with random weights, as `predict` takes it."""
  folder.mkdir()
  encoder = write_encoder(folder / "encoder")
  config, items = finetune.qa_config(), squad.read(QA / "en-train.json")
  config.data.overlap = 24
  model = folder / "model"
  return tiny_ud.write_random(model, Qa, config, items, encoder, mesh)


def command(model, workdir, *flags, train="en-train", dev="en-dev"):
  files = f"train={QA}/{train}.json,dev={QA}/{dev}.json"
  recipe = f"--config={tiny_ud.ROOT}/configs/qa.py:lang=en,model={model}"
  return [
    *("finetune", "qa", f"{recipe},{files}"),
    *(f"--workdir={workdir}", *SIZES, *flags),
  ]
