"""Every reader of files that somebody else made, fed with damaged ones.

It ends with what it read, or with a UserError: with no other exception, and
without filling the memory. `make fuzz` feeds some thousands to each.
"""

import contextlib
import gzip
import io
import json
import logging
import os
import pathlib
import resource
import shutil
import tempfile

import mutations
import preparing
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
import sentencepiece
import torch
import zstandard
from hypothesis import HealthCheck, given, settings

from time_jax.checkpoint import checksums
from time_jax.config.distill import default_config
from time_jax.core.errors import UserError
from time_jax.data import manifest, pipeline, prepare, text_files
from time_jax.data.records import Tally
from time_jax.evals.ner import iob
from time_jax.evals.qa import squad
from time_jax.evals.ud import conllu
from time_jax.hf import files, load, tokenizer, weights
from time_jax.hf.fine_tuned import DESCRIPTION, read_description
from time_jax.models.bert import BertConfig
from time_jax.run import choose, run_files, status
from time_jax.trim.sentencepiece_file import SentencePieceFile

FILES = int(os.environ.get("FUZZ", "10"))  # for each reader
TESTS = pathlib.Path(__file__).parents[1]
MEMORY = 2 << 30  # bytes that reading may take
DOCUMENTS = preparing.make_documents(30)
LINES = "\n".join(json.dumps({"text": text}) for text in DOCUMENTS).encode()


def text(folder):
  (folder / "a.jsonl").write_bytes(LINES)
  (folder / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
  (folder / "a.jsonl.zst").write_bytes(zstandard.compress(LINES))
  (folder / "a.txt").write_text("\n\n".join(DOCUMENTS))
  table = pyarrow.table({"text": DOCUMENTS, "n": [[1]] * len(DOCUMENTS)})
  pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=9)
  packed = gzip.compress((folder / "a.parquet").read_bytes())
  (folder / "a.parquet.gz").write_bytes(packed)


def annotated(folder):
  shutil.copy(TESTS / "evals" / "ud" / "ga-dev.conllu.gz", folder)
  lines = gzip.decompress((folder / "ga-dev.conllu.gz").read_bytes())
  (folder / "a.conllu").write_bytes(lines[:4000].rpartition(b"\n\n")[0])
  shutil.copy(TESTS / "evals" / "ner" / "da-dev.iob2", folder / "a.iob2")
  content = json.loads((TESTS / "evals" / "qa" / "en-dev.json").read_text())
  content["data"] = content["data"][:1]
  (folder / "a.json").write_text(json.dumps(content))


def model(folder):
  """Weights in all forms, and the tokenizer of `preparing`."""
  golden = TESTS / "golden" / "bert"
  shutil.copy(golden / "config.json", folder)
  tensors = safetensors.numpy.load_file(golden / "model.safetensors")
  few = dict(list(tensors.items())[:4])
  safetensors.numpy.save_file(few, folder / "model.safetensors")
  spec = preparing.tiny_tokenizer()
  (folder / "tokenizer.json").write_text(spec.backend)
  names = {"pad_token": "[PAD]", "vocab_file": "vocab.txt"}
  for name in ("tokenizer_config.json", "special_tokens_map.json"):
    (folder / name).write_text(json.dumps(names))


def parts(folder):
  model(folder)
  (folder / "model.safetensors").rename(folder / "a.safetensors")
  index = {"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled(folder):
  tensors = {"a": torch.ones(4, 3), "b": torch.ones(5, dtype=torch.bfloat16)}
  torch.save(tensors, folder / "pytorch_model.bin")


def words(folder):
  """Without tokenizer.json: transformers reads these."""
  tokens = [*preparing.SPECIAL, *preparing.WORDS]
  (folder / "vocab.txt").write_text("\n".join(tokens))
  content = {"tokenizer_class": "BertTokenizer"}
  (folder / "tokenizer_config.json").write_text(json.dumps(content))


def pieces(folder):
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(DOCUMENTS),
    model_prefix=str(folder / "sentencepiece.bpe"),
    vocab_size=40,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  content = {"tokenizer_class": "XLMRobertaTokenizer"}
  (folder / "tokenizer_config.json").write_text(json.dumps(content))


def rows(folder):
  corpus = preparing.write_corpus(folder / "corpus.jsonl", DOCUMENTS)
  preparing.run(folder, corpus)


def unfinished(folder):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      *(prepare, "_finish"),
      lambda folder: manifest.load_manifest(folder / "unfinished"),
    )
    rows(folder)
  (folder / "unfinished" / manifest.MANIFEST).unlink()


def run(folder):
  (folder / "config.json").write_text(default_config().to_json())
  shape = {"vocab_size": 9, "hidden_size": 8, "num_layers": 2}
  shape |= {"num_heads": 2, "intermediate_size": 8, "max_positions": 9}
  BertConfig(**shape)
  (folder / "student.json").write_text(json.dumps(shape))
  lines = [
    {"step": i, "train/loss": 0.5, "time/unix": 5.0 * i, "time/steps": 1.0}
    | {"eval/loss": 1.0, "perf/steps_per_second": 2.0}
    for i in range(9)
  ]
  path = folder / "metrics.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  start = {"event": "start", "time": 1.0, "step": 0, "processes": 1}
  end = {"event": "end", "time": 99.0, "code": 0, "why": ""}
  path = folder / "sessions.jsonl"
  path.write_text(f"{json.dumps(start)}\n{json.dumps(end)}\n")
  (folder / "choice.json").write_text(json.dumps({"step": 10}))
  record = {"task": "ud", "heads": {}, "classes": {}, "buckets": [16]}
  (folder / DESCRIPTION).write_text(json.dumps(record))
  (folder / "params").mkdir()
  (folder / "params" / "a").write_text("a")
  checksums.write(folder)


def read_text(path):
  list(text_files.read_files([path], "text", Tally(10**9)))


def read_weights(path):
  with weights.Weights(path.parent, allow_pickle=True) as found:
    for name in found:
      found.read(name)


def read_rows(path):
  folder = next(p for p in path.parents if (p / "corpus.jsonl").exists())
  found = pipeline.open_rows(folder, "train")
  found.__getitems__(range(len(found)))


def go_on(path):
  folder = path.parents[1]
  with tempfile.TemporaryDirectory() as copy:
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    preparing.run(pathlib.Path(copy), str(folder / "corpus.jsonl"))


def load_tokenizer(path):
  tokenizer.load_tokenizer(path.parent, 500)


def read_sentencepiece(path):
  if found := SentencePieceFile.read(path):
    found.cut(dict.fromkeys(list(found.places())[::2]))


def show(path):
  with contextlib.redirect_stdout(io.StringIO()):
    status.status_command(path.parent)


ROWS = f"{manifest.NAME}/{manifest.VERSION}"
BYTES = [
  *((text, f"a.{kind}", read_text) for kind in ("txt", "parquet")),
  *((text, f"a.jsonl.{kind}", read_text) for kind in ("gz", "zst")),
  (text, "a.parquet.gz", read_text),
  (annotated, "ga-dev.conllu.gz", conllu.read),
  (annotated, "a.conllu", conllu.read),
  (annotated, "a.iob2", iob.read),
  (annotated, "a.json", squad.read),
  (model, "model.safetensors", read_weights),
  (pickled, "pytorch_model.bin", read_weights),
  (model, "tokenizer.json", load_tokenizer),
  (words, "vocab.txt", load_tokenizer),
  (pieces, "sentencepiece.bpe.model", load_tokenizer),
  (pieces, "sentencepiece.bpe.model", read_sentencepiece),
  (rows, f"{ROWS}/*-00000-of-*", read_rows),
]
VALUES = [
  (text, "a.jsonl", read_text),
  (run, "metrics.jsonl", show),
  (run, "sessions.jsonl", show),
  (annotated, "a.json", squad.read),
  (model, "config.json", lambda path: load.read_config(path.parent)),
  (model, "tokenizer.json", load_tokenizer),
  (model, "tokenizer_config.json", load_tokenizer),
  (model, "special_tokens_map.json", load_tokenizer),
  (model, "tokenizer_config.json", lambda path: files.check_names(path.parent)),
  (words, "tokenizer_config.json", load_tokenizer),
  (parts, "model.safetensors.index.json", read_weights),
  (rows, manifest.MANIFEST, read_rows),
  (unfinished, "unfinished/plan.json", go_on),
  (unfinished, "unfinished/train-00000.json", go_on),
  (rows, f"{ROWS}/dataset_info.json", read_rows),
  (rows, f"{ROWS}/features.json", read_rows),
  (run, "config.json", lambda path: run_files.read_config(path.parent)),
  (run, "config.json", show),
  (run, "student.json", lambda path: run_files.read_shape(path.parent, None)),
  (run, "choice.json", lambda path: choose.read_choice(path.parent)),
  (run, checksums.FILE, lambda path: checksums.find_damage(path.parent)),
  (run, DESCRIPTION, lambda path: read_description(path.parent)),
]
CASES = [("edited", *case) for case in BYTES + VALUES]
CASES += [("altered", *case) for case in VALUES]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
  """What makes a folder of sound files -> that folder, made once."""
  made = {}

  def folder_of(make):
    if make not in made:
      made[make] = tmp_path_factory.mktemp(make.__name__)
      make(made[make])
    return made[make]

  return folder_of


@pytest.fixture
def limited():
  """Reading may take so much memory, and no more."""
  sizes = pathlib.Path("/proc/self/statm")
  if not sizes.exists():
    pytest.skip("the memory in use is known on Linux only")
  pages = int(sizes.read_text().split()[0])
  before = resource.getrlimit(resource.RLIMIT_AS)
  most = pages * resource.getpagesize() + MEMORY
  resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
  "case", CASES, ids=lambda c: f"{c[0]}-{c[1].__name__}-{c[2]}-{c[3].__name__}"
)
def test_damaged(case, folder_of, limited, monkeypatch):
  monkeypatch.setattr(pipeline, "_PAUSES", ())
  logging.disable()  # Thousands of warnings of bad records.
  edits, make, name, read = case
  (path,) = folder_of(make).glob(name)
  sound = path.read_bytes()
  read(path)  # Or nothing would be shown.

  @settings(
    max_examples=FILES,
    derandomize="FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(getattr(mutations, edits)([sound]))
  def feed(content):
    path.write_bytes(content)
    with contextlib.suppress(UserError):
      read(path)

  try:
    feed()
  finally:
    path.write_bytes(sound)
    logging.disable(logging.NOTSET)
