"""Real text of twenty languages, through every kind of tokenizer."""

import collections
import itertools
import unicodedata

import alone
import numpy as np
import pytest
import running
import safetensors.numpy
import tiny_tokenizers
import tokenizers
import transformers

from time_jax.data import pipeline, prepare
from time_jax.data.shards import RowFormat
from time_jax.hf import save
from time_jax.hf.tokenizer import load_tokenizer
from time_jax.models import bert

ROWS, SEQ_LEN = 2000, 32
KINDS = list(tiny_tokenizers.KINDS)
ALL = list(itertools.product(tiny_tokenizers.LANGUAGES, KINDS))
# Every language, through one kind of tokenizer after the other.
IN_TURN = set(
  zip(tiny_tokenizers.LANGUAGES, itertools.cycle(KINDS), strict=False)
)
# Right to left, without spaces.
SOME = [("ar", "unigram"), ("zh", "wordpiece")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(language, kind) -> a folder with such a tokenizer."""
  folders = {}

  def folder(language, kind):
    if (language, kind) not in folders:
      path = tmp_path_factory.mktemp(f"{language}_{kind}")
      texts = tiny_tokenizers.documents(language)
      train = tiny_tokenizers.KINDS[kind]
      tiny_tokenizers.save(train(texts, ROWS), path)
      folders[language, kind] = path
    return folders[language, kind]

  return folder


def cases(quick):
  """All cases, those that are not quick marked as slow."""
  return [
    pytest.param(*case, marks=() if case in quick else pytest.mark.slow)
    for case in ALL
  ]


@pytest.mark.parametrize(("language", "kind"), cases(IN_TURN))
def test_no_token_is_lost(trained, tmp_path, language, kind):
  """What the rows hold is the whole text, window by window."""
  folder = trained(language, kind)
  spec = load_tokenizer(folder, ROWS)
  source = tiny_tokenizers.TEXT / f"{language}.jsonl.gz"
  prepare.prepare(
    tmp_path,
    {"train": [str(source)]},
    RowFormat(spec, SEQ_LEN),
    num_workers=1,
  )
  found = windows(pipeline.open_rows(tmp_path, "train"))

  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  first, last = (tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))
  expected = collections.Counter()
  for text in tiny_tokenizers.documents(language):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert letters(tokenizer.decode(ids)) == letters(text)
    for start in range(0, len(ids), SEQ_LEN - 2):
      window = ids[start : start + SEQ_LEN - 2]
      expected[(first, *window, last)] += 1
  assert found == expected


def windows(rows):
  """Every document of every row, counted."""
  found = collections.Counter()
  for row in rows.__getitems__(range(len(rows))):
    tokens, segments = row["tokens"], row["segment_ids"]
    for segment in range(1, segments.max() + 1):
      found[tuple(tokens[segments == segment].tolist())] += 1
  return found


def letters(text):
  """A text in one of its Unicode forms, without spaces and invisible marks.

  Tokenizers drop those: BERT's, joiners; SentencePiece, double spaces.
  """
  plain = "".join(unicodedata.normalize("NFKC", text).split())
  return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def run_through(trained, folder, language, kind):
  """Prepare, five steps, export; the exported folder."""
  teacher = folder / "teacher"
  config = bert.BertConfig(ROWS, 32, 2, 4, 64, max_positions=64)
  teacher.mkdir()
  for path in trained(language, kind).iterdir():
    (teacher / path.name).write_bytes(path.read_bytes())
  save.save_bert(teacher, config, random_params(config), {"pad_token_id": 0})
  source = tiny_tokenizers.TEXT / f"{language}.jsonl.gz"
  recipe = f"--config={running.ROOT}/tests/support/tiny_recipe.py:{folder}"
  common = [
    recipe,
    f"--workdir={folder}/run",
    f"--config.lang={language}",
    f"--config.data.train=('{source}',)",
    "--config.data.validation=()",
    "--config.train.num_steps=5",
  ]
  alone.run("prepare", *common)
  alone.run("distill", *common)
  alone.run("export", f"--workdir={folder}/run")
  return folder / "run" / "export"


@pytest.mark.parametrize(("language", "kind"), cases(SOME))
def test_text_to_student(trained, tmp_path, language, kind):
  out = run_through(trained, tmp_path, language, kind)
  losses = running.losses(tmp_path / "run")
  assert len(losses) == 5
  assert all(np.isfinite(loss) for loss, _ in losses.values())
  # The student reads text with its own tokenizer as the teacher's would.
  text = tiny_tokenizers.documents(language)[0][:200]
  exported = transformers.AutoTokenizer.from_pretrained(out)
  original = tokenizers.Tokenizer.from_file(
    str(trained(language, kind) / "tokenizer.json")
  )
  assert exported(text)["input_ids"] == original.encode(text).ids
  weights = safetensors.numpy.load_file(out / "model.safetensors")
  assert len(weights["embeddings.word_embeddings.weight"]) == ROWS


def random_params(config):
  import flax.linen as nn
  import jax

  from time_jax.models.family import init_params

  encoder = bert.Encoder(config, config.num_layers)
  return nn.meta.unbox(
    jax.jit(lambda: init_params(encoder, jax.random.key(0)))()
  )
