"""A tiny encoder for the samples of named entities, and how to fine-tune it."""

import pathlib

import tiny_ud

from time_jax.config import finetune
from time_jax.evals.ner import iob
from time_jax.evals.ner.task import Ner

NER = pathlib.Path(__file__).parents[1] / "evals" / "ner"
SIZES = (
  "--config.data.buckets=(32,)",
  "--config.train.batch_size=8",
  "--config.train.warmup_steps=5",
  "--config.log.every=1",
)


def write_encoder(folder: pathlib.Path) -> pathlib.Path:
  """A random BERT of 2 layers with a tokenizer for the samples."""
  sentences = iob.read(NER / "da-train.iob2")
  texts = [" ".join(sentence.words) for sentence in sentences]
  return tiny_ud.write_bert(folder, texts)


def write_model(folder: pathlib.Path, mesh) -> pathlib.Path:
  """The folder of a model of ner with random weights, as `predict` takes it."""
  folder.mkdir()
  encoder = write_encoder(folder / "encoder")
  config, items = finetune.ner_config(), iob.read(NER / "da-train.iob2")
  model = folder / "model"
  return tiny_ud.write_random(model, Ner, config, items, encoder, mesh)


def command(model, workdir, *flags, train="da-train", dev="da-dev"):
  files = f"train={NER}/{train}.iob2,dev={NER}/{dev}.iob2"
  recipe = f"--config={tiny_ud.ROOT}/configs/ner.py:lang=da,model={model}"
  return [
    *("finetune", "ner", f"{recipe},{files}"),
    *(f"--workdir={workdir}", *SIZES, *flags),
  ]
