"""A tiny encoder for the sample questions, and how to fine-tune it."""

import pathlib

import tiny_ud

from time_jax.evals.qa import squad

QA = pathlib.Path(__file__).parents[1] / "evals" / "qa"
SIZES = (
  "--config.data.buckets=(96,)",
  "--config.data.overlap=24",
  "--config.train.batch_size=16",
  "--config.train.warmup_steps=5",
  "--config.log.every=1",
)


def write_encoder(folder: pathlib.Path) -> pathlib.Path:
  """A random BERT of 2 layers with a tokenizer for the samples."""
  questions = squad.read(QA / "en-train.json")
  texts = [f"{question.context} {question.text}" for question in questions]
  return tiny_ud.write_bert(folder, texts, tokens=900, longest=96)


def command(model, workdir, *flags, train="en-train", dev="en-dev"):
  files = f"train={QA}/{train}.json,dev={QA}/{dev}.json"
  recipe = f"--config={tiny_ud.ROOT}/configs/qa.py:lang=en,model={model}"
  return [
    *("finetune", "qa", f"{recipe},{files}"),
    *(f"--workdir={workdir}", *SIZES, *flags),
  ]
