"""A tiny encoder for the treebank samples, and a recipe to fine-tune it."""

import pathlib

import flax
import jax
import tiny_tokenizers

from time_jax.config import finetune
from time_jax.evals.common import encoders, folder_writer
from time_jax.evals.common.batches import Buckets
from time_jax.evals.common.task import Task
from time_jax.evals.ud import conllu
from time_jax.evals.ud.task import Ud
from time_jax.hf import save
from time_jax.models import bert
from time_jax.models.family import init_params

ROOT = pathlib.Path(__file__).parents[2]
UD = ROOT / "tests" / "evals" / "ud"
SIZES = (
  "--config.data.buckets=(16,32)",
  "--config.heads.hidden=16",
  "--config.heads.arc=16",
  "--config.heads.relation=8",
  "--config.train.batch_size=16",
  "--config.train.warmup_steps=5",
  "--config.train.peak_lr=3e-3",
  "--config.checkpoint.every=3",
  "--config.log.every=1",
)


def write_encoder(folder: pathlib.Path, longest: int = 64) -> pathlib.Path:
  """A random BERT of 2 layers with a tokenizer for the samples."""
  texts = [
    " ".join(sentence.column("FORM"))
    for sentence in conllu.read(UD / "ga-train.conllu.gz")
  ]
  return write_bert(folder, texts, longest=longest)


def write_bert(
  folder: pathlib.Path, texts: list[str], tokens: int = 400, longest: int = 64
) -> pathlib.Path:
  """The same for any texts."""
  folder.mkdir()
  tokenizer = tiny_tokenizers.unigram(texts, tokens)
  tiny_tokenizers.save(tokenizer, folder)
  config = bert.BertConfig(
    vocab_size=tokenizer.get_vocab_size(),
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_positions=longest,
  )
  encoder = bert.Encoder(config, 2)
  boxed = jax.jit(lambda: init_params(encoder, jax.random.key(1)))()
  params = flax.linen.meta.unbox(boxed)
  save.save_bert(folder, config, params, {"pad_token_id": 0})
  return folder


def write_model(folder: pathlib.Path, mesh) -> pathlib.Path:
  """The folder of a model of ud with random weights, as `predict` takes it."""
  folder.mkdir()
  config = finetune.ud_config()
  config.heads.update(hidden=16, arc=16, relation=8)
  items = conllu.read(UD / "ga-train.conllu.gz")
  encoder = write_encoder(folder / "encoder")
  return write_random(folder / "model", Ud, config, items, encoder, mesh)


def write_random(
  out: pathlib.Path, kind: type[Task], config, items, encoder, mesh
) -> pathlib.Path:
  """The folder of a model of any task whose heads are random."""
  opened = encoders.open_encoder(str(encoder), mesh=mesh, dtype="float32")
  buckets = Buckets((16, min(opened.longest, 128)))
  task = kind(config, {"train": items}, opened, buckets, mesh)
  params = flax.linen.meta.unbox(jax.jit(task.fresh)(jax.random.key(0)))
  params["encoder"] = opened.params
  description = {"task": kind.name, "buckets": buckets.lengths, **task.spec}
  folder_writer.write_folder(out, opened, params, description)
  return out


def command(model, workdir, *flags, train="ga-train", dev="ga-dev"):
  files = f"train={UD}/{train}.conllu.gz,dev={UD}/{dev}.conllu.gz"
  recipe = f"--config={ROOT}/configs/ud.py:lang=ga,model={model},{files}"
  return ["finetune", "ud", recipe, f"--workdir={workdir}", *SIZES, *flags]
