"""A trimmed teacher: the same, with fewer tokens."""

import dataclasses
import functools
import itertools
import json
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import tiny_multilingual
import tiny_tokenizers
import tokenizers
import transformers

from time_jax.cli import main
from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.hf.tokenizer import load_tokenizer
from time_jax.models import bert
from time_jax.models.family import init_params
from time_jax.step import optimizer, train_step
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, TrainState

FLOAT32 = jnp.dtype("float32")
unflatten = flax.traverse_util.unflatten_dict
# Right to left, without spaces, with combining marks, plain.
LANGUAGES = ["ar", "da", "de", "hi", "ru", "zh"]
EVERY_CASE = [
  *itertools.product(("xlm_roberta", "mbert", "roberta"), LANGUAGES),
  # The same kind of model as XLM-R, in other files.
  *itertools.product(("mdeberta", "mt5"), ("ar", "ru")),
]
SOME = {
  *(("xlm_roberta", "ar"), ("xlm_roberta", "hi"), ("mbert", "zh")),
  *(("mbert", "da"), ("roberta", "ru"), ("roberta", "de")),
  *(("mdeberta", "ar"), ("mt5", "ru")),
}
# One language of each kind, for what depends on ids and not on letters.
ONE = dict(sorted(SOME)).items()
CASES, FEW_CASES = (
  [
    pytest.param(*case, marks=() if case in quick else pytest.mark.slow)
    for case in EVERY_CASE
  ]
  for quick in (SOME, ONE)
)


@pytest.fixture(scope="module")
def trimmed(teachers, tmp_path_factory):
  """(kind, language) -> folder, with the tokens of the text alone."""
  folders = {}

  def folder(kind, language):
    if (kind, language) not in folders:
      out = tmp_path_factory.mktemp("trimmed") / language
      rule = "--coverage=0.9999"
      assert trim(teachers(kind), out, language, rule) == 0
      folders[kind, language] = out
    return folders[kind, language]

  return folder


def trim(teacher, out, language="da", *more):
  text = tiny_tokenizers.TEXT / f"{language}.jsonl.gz"
  return main.main(
    ["trim", f"--teacher={teacher}", f"--text={text}", f"--out={out}", *more]
  )


@functools.cache
def backend_of(folder):
  rows = json.loads((folder / "config.json").read_text())["vocab_size"]
  spec = load_tokenizer(folder, rows)
  return tokenizers.Tokenizer.from_str(spec.backend)


def record(folder):
  return json.loads((folder / "trim.json").read_text())


@pytest.mark.parametrize(("kind", "language"), CASES)
def test_ids_map_one_to_one(teachers, trimmed, kind, language):
  out = trimmed(kind, language)
  old_ids = record(out)["old_ids"]
  whole, fewer = backend_of(teachers(kind)), backend_of(out)
  covered = 0
  for text in tiny_tokenizers.documents(language):
    ids = whole.encode(text).ids
    after = fewer.encode(text).ids
    if set(ids) <= set(old_ids):
      covered += 1
      assert [old_ids[i] for i in after] == ids
      assert fewer.decode(after) == whole.decode(ids)
  own = len(tiny_tokenizers.documents(language))
  assert covered >= own - 1
  assert len(old_ids) < 0.6 * tiny_multilingual.SIZE


@pytest.mark.parametrize(("kind", "language"), CASES)
def test_every_form_has_the_same_ids(trimmed, tmp_path, kind, language):
  out = trimmed(kind, language)
  texts = tiny_tokenizers.documents(language)
  expected = [backend_of(out).encode(text).ids for text in texts]
  fast = transformers.AutoTokenizer.from_pretrained(out)
  assert fast(texts)["input_ids"] == expected
  assert len(fast) == len(record(out)["old_ids"])
  # The other form, alone: slow classes in transformers 4, converted in 5.
  shutil.copytree(out, tmp_path / "plain")
  (tmp_path / "plain" / "tokenizer.json").unlink()
  plain = transformers.AutoTokenizer.from_pretrained(
    tmp_path / "plain", use_fast=False
  )
  assert plain(texts)["input_ids"] == expected
  for token in plain.all_special_tokens:
    ids = [t.convert_tokens_to_ids(token) for t in (plain, fast)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(("kind", "language"), FEW_CASES)
def test_projections_are_equal_to_the_last_bit(
  teachers, trimmed, mesh, kind, language
):
  """Of documents whose tokens were all kept, each with its own ids."""
  folders = teachers(kind), trimmed(kind, language)
  kept = set(record(folders[1])["old_ids"])
  whole = backend_of(teachers(kind))
  texts = [
    text
    for text in tiny_tokenizers.documents(language)
    if set(whole.encode(text).ids) <= kept
  ]
  lengths = np.array([60, 33, 1])
  mask = np.arange(60) < lengths[:, None]
  found = []
  for folder in folders:
    backend = backend_of(folder)
    rows = [backend.encode(text).ids[:60] for text in texts[:3]]
    batch = make_batch(np.where(mask, rows, 0), mask.astype(np.int32))
    teacher = load.load_teacher(str(folder), (3,), dtype=FLOAT32, mesh=mesh)
    found.append(jax.jit(teacher.project)(teacher.params, batch))
  for name in ("query", "key", "value"):
    before, after = (np.asarray(getattr(qkv, name)) for qkv in found)
    assert np.array_equal(before, after)


def distil(folder, student, params, tokens, mesh):
  """Losses of a few steps on one batch, and the student's parameters."""
  teacher = load.load_teacher(str(folder), (2,), dtype=FLOAT32, mesh=mesh)
  tx = optimizer.make_optimizer(
    bert.FAMILY.feeds_projections,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    weight_decay=0.01,
    clip_norm=1.0,
  )
  relations = {"qq": 1.0, "kk": 1.0, "vv": 1.0}
  students = {
    "student": train_step.Student(
      Objective(teacher, student, 8, relations, "dense", 2),
      StepSettings(tx, lambda step: jnp.float32(3e-3)),
    )
  }
  step = jax.jit(functools.partial(train_step.train_step, students=students))
  zero = jnp.zeros((), jnp.int32)
  states = {"student": TrainState(zero, params, tx.init(params), zero, zero)}
  batch = make_batch(tokens, np.ones_like(tokens))
  losses = []
  for _ in range(6):
    states, metrics = step(states, teacher.params, batch)
    losses.append(float(metrics["student"]["train/loss"]))
  return losses, states["student"].params


@pytest.mark.parametrize(
  "kind", [pytest.param("roberta", marks=pytest.mark.slow), "xlm_roberta"]
)
def test_distillation_gives_the_same_losses(teachers, trimmed, mesh, kind):
  """The same tokens and the same first weights, with and without the rest."""
  whole, out = teachers(kind), trimmed(kind, "ru")
  size = json.loads((whole / "config.json").read_text())["vocab_size"]
  old_ids = np.array(record(out)["old_ids"])
  tokens = np.random.default_rng(3).integers(len(old_ids), size=(4, 16))
  word = ("embeddings", "word", "embedding")

  config = bert.BertConfig(size, 16, 1, 2, 32)
  student = bert.Encoder(config, 1)
  boxed = jax.jit(lambda: init_params(student, jax.random.key(0)))()
  first = flax.traverse_util.flatten_dict(flax.linen.meta.unbox(boxed))
  fewer = bert.Encoder(dataclasses.replace(config, vocab_size=len(old_ids)), 1)
  both = {
    folder: distil(folder, encoder, unflatten(params), ids, mesh)
    for folder, encoder, params, ids in (
      (whole, student, first, old_ids[tokens]),
      (out, fewer, first | {word: first[word][old_ids]}, tokens),
    )
  }
  (expected, before), (losses, after) = both[whole], both[out]
  np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)
  assert losses[-1] < losses[0] - 1e-3
  before, after = (
    np.asarray(flax.traverse_util.flatten_dict(params)[word])
    for params in (before, after)
  )
  np.testing.assert_allclose(after, before[old_ids], atol=1e-5)
  assert len(after) < 0.5 * len(before)


def test_tensors(teachers, trimmed):
  """Rows of the tables over the vocabulary; all else as it was."""
  out = trimmed("xlm_roberta", "hi")
  old_ids = record(out)["old_ids"]
  before, after = (
    safetensors.numpy.load_file(folder / "model.safetensors")
    for folder in (teachers("xlm_roberta"), out)
  )
  assert before.keys() == after.keys()
  tables = {"roberta.embeddings.word_embeddings.weight", "lm_head.bias"}
  for name, array in before.items():
    expected = array[old_ids] if name in tables else array
    assert after[name].dtype == array.dtype
    assert np.array_equal(after[name], expected)
  config = json.loads((out / "config.json").read_text())
  assert config["vocab_size"] == len(old_ids)
  ids = [config[f"{name}_token_id"] for name in ("bos", "pad", "eos")]
  assert ids == [0, 1, 2]  # Positions are counted from the padding's id.
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  assert tokenizer.mask_token_id == len(old_ids) - 1


def test_characters_stay(trimmed):
  """What was never seen is spelt, rather than unknown."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    trimmed("xlm_roberta", "da")
  )
  ids = tokenizer("Zwölf Boxkämpfer, ¿señor? 1984")["input_ids"]
  assert tokenizer.unk_token_id not in ids
  tokens = tokenizer("ελληνικά")["input_ids"]
  assert tokenizer.unk_token_id in tokens  # Not its script.


def test_rules(teachers, tmp_path, capsys):
  kind, sizes = "roberta", {}
  for rule in ("--keep=900", "--min_count=2", "--coverage=0.97"):
    assert trim(teachers(kind), tmp_path / rule, "da", rule) == 0
    sizes[rule] = len(record(tmp_path / rule)["old_ids"])
  assert trim(teachers(kind), tmp_path / "all", "da", "--min_count=1") == 0
  found = record(tmp_path / "all")
  own = len(tiny_tokenizers.documents("da"))
  assert (found["documents"], found["held_out"]["documents"]) == (own - 1, 1)
  assert found["held_out"]["same_tokens"] < found["held_out"]["tokens"]
  everything = len(found["old_ids"])
  assert all(size < everything for size in sizes.values())
  assert sizes["--keep=900"] == 900
  output = capsys.readouterr().out
  assert f"-> {everything:,} (" in output
  assert "note: --keep" not in output
  assert output.splitlines()[-1] == (
    f"Next: python -m time_jax inspect {tmp_path / 'all'}"
  )


@pytest.mark.parametrize(("kind", "language"), CASES)
def test_a_short_text_is_not_all_of_its_language(
  teachers, trimmed, tmp_path, capsys, kind, language
):
  """By default, tokens are added that other text needs; by a rule, not."""
  assert trim(teachers(kind), tmp_path / "out", language) == 0
  output = capsys.readouterr().out
  more, found = record(tmp_path / "out"), record(trimmed(kind, language))
  assert share(more) >= 0.999 and share(more) >= share(found)
  assert more["of_text"] == found["of_text"] == found["vocab_size"]["after"]
  after = more["vocab_size"]["after"]
  assert more["of_text"] < after
  assert ("this text is short for its language" in output) == (
    after > 2 * more["of_text"]
  )


def share(record):
  """Of the held-out tokens that are as before."""
  return record["held_out"]["same_tokens"] / record["held_out"]["tokens"]


def test_bytes_stay_for_what_has_no_piece(teachers, trimmed):
  """In the SentencePiece model, which transformers 4's T5 reads as it is."""
  before, after = (
    sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    for folder in (teachers("mt5"), trimmed("mt5", "ru"))
  )
  text = "мир, ελληνικά, ᚛ᚑᚌᚐᚋ᚜"
  pieces = after.encode(text, out_type=str)
  assert pieces == before.encode(text, out_type=str)
  assert sum(piece.startswith("<0x") for piece in pieces) > 30
  assert after.decode(after.encode(text)) == text
  assert after.vocab_size() < 0.5 * before.vocab_size()


def test_the_report_is_in_the_record(teachers, tmp_path, capsys):
  """Every number is what the files and the tokenizers say."""
  out = tmp_path / "out"
  assert trim(teachers("xlm_roberta"), out, "ru", "--coverage=0.99") == 0
  printed = dict(
    (line[2:18].strip(), line[19:])
    for line in capsys.readouterr().out.splitlines()
    if line.startswith("  ")
  )
  found = record(out)
  for name, folder in (("before", teachers("xlm_roberta")), ("after", out)):
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path).values()
    assert found["parameters"][name] == sum(array.size for array in arrays)
    assert found["bytes"][name] == path.stat().st_size
  # A row is 32 numbers, and one of the head's bias.
  fewer, rows = (
    found[name]["before"] - found[name]["after"]
    for name in ("parameters", "vocab_size")
  )
  assert fewer == 33 * rows
  text = tiny_tokenizers.documents("ru")[-1]
  whole, trimmed = (
    backend_of(folder).encode(text, add_special_tokens=False).ids
    for folder in (teachers("xlm_roberta"), out)
  )
  held_out = found["held_out"]
  assert held_out["tokens"] == len(whole)
  assert held_out["tokens_after"] == len(trimmed) > len(whole)
  words = len(text.split())
  assert printed["tokens per word"] == (
    f"{len(whole) / words:.4f} -> {len(trimmed) / words:.4f}"
  )
  old_ids = found["old_ids"]
  assert (held_out["documents"], held_out["same_documents"]) == (
    1,
    int(whole == [old_ids[i] for i in trimmed]),
  )
  assert printed[
    "as before"
  ] == f"{share(found):.3%} of the tokens, 0.0% of " + ("the documents")
  for name, unit, scale in (("parameters", "M", 1e6), ("bytes", "MB", 1e6)):
    numbers = (f"{n / scale:.1f} {unit}" for n in found[name].values())
    title = {"bytes": "weights"}.get(name, name)
    assert printed[title] == " -> ".join(numbers)


def test_a_trimmed_teacher_is_a_teacher(trimmed, tmp_path, capsys):
  """And can be trimmed again."""
  out = trimmed("mbert", "da")
  assert main.main(["inspect", str(out)]) == 0
  assert "Usable as a teacher" in capsys.readouterr().out
  assert trim(out, tmp_path / "again", "da", "--min_count=1") == 0
  again = record(tmp_path / "again")["old_ids"]
  assert again == list(range(len(record(out)["old_ids"])))


def test_bad_input(teachers, trimmed, tmp_path, capsys):
  teacher = teachers("xlm_roberta")
  (tmp_path / "empty.txt").write_text("\n \n")
  (tmp_path / "one.txt").write_text("En tekst")
  (tmp_path / "ogham.txt").write_text("᚛ᚑᚌᚐᚋ᚜ ᚑᚌᚐᚋ\n\nᚑᚌᚐᚋ")
  bare = tmp_path / "bare"
  bare.mkdir()
  for name in ("config.json", "model.safetensors"):
    shutil.copyfile(teacher / name, bare / name)
  cases = {
    f"--text={tmp_path}/empty.txt": "no text in",
    f"--text={tmp_path}/none.txt": "no file at",
    f"--text={tmp_path}/one.txt": "expected 2 at least",
    f"--text={tmp_path}/ogham.txt": "does not know 50% of this text",
    "--keep=10": "--keep=10 is less than the ",
    "--keep=0": "--keep=0; expected 1 or more",
    "--coverage=2": "--coverage=2.0; expected a share",
    "--keep=9 --min_count=1": "expected one of --keep, --min_count, --cov",
    f"--out={trimmed('mbert', 'da')}": "holds something; expected an empty or",
    f"--teacher={bare}": "has no tokenizer; expected tokenizer.json",
  }
  for flags, words in cases.items():
    given = {
      "--teacher": str(teacher),
      "--text": str(tiny_tokenizers.TEXT / "da.jsonl.gz"),
      "--out": str(tmp_path / "out"),
    }
    given |= dict(flag.split("=") for flag in flags.split(" "))
    assert main.main(["trim", *(f"{k}={v}" for k, v in given.items())]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1, message
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"empty.txt", "one.txt", "ogham.txt", "bare"}
