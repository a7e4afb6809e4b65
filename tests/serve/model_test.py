"""Models without JAX: they find what `predict` finds, whatever is beside."""

import itertools
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import served
import tiny_ner
import tiny_qa
import tiny_ud
import tokenizers

import time_jax
from time_jax.core.errors import UserError
from time_jax.evals.common.word_tokens import Chunk
from time_jax.evals.ner import iob
from time_jax.evals.predict.pipeline import open_pipeline
from time_jax.evals.qa import reader as in_jax
from time_jax.evals.qa import squad
from time_jax.evals.qa.windows import Window
from time_jax.evals.ud import conllu
from time_jax.serve import InputError, load
from time_jax.serve import reader as of_questions
from time_jax.serve.folder import VECTORS
from time_jax.serve.rows import Row, RowGraph

EACH = pytest.mark.parametrize("task", served.TASKS)


@pytest.fixture(scope="module")
def exports(mesh, tmp_path_factory):
  """Task -> the folder of an export; not to be changed."""
  return {
    task: served.export(task, tmp_path_factory.mktemp("export"), mesh)
    for task in served.TASKS
  }


@pytest.fixture
def copy(exports, tmp_path):
  """Returns a copy of an export, to damage."""
  return lambda task: shutil.copytree(exports[task], tmp_path / task)


def test_names_are_those_of_predict(exports):
  sentences = iob.read(tiny_ner.NER / "da-dev.iob2")
  expected = open_pipeline(exports["ner"], engine="jax").annotate(sentences)
  found = load(exports["ner"])([sentence.words for sentence in sentences])
  assert [f["tags"] for f in found] == [[*s.tags] for s in expected]
  entities = [entity for f in found for entity in f["entities"]]
  assert len(entities) == sum(tag[0] == "B" for f in found for tag in f["tags"])
  assert all(0 < entity["score"] < 1 for entity in entities)


def test_an_entity_is_a_part_of_the_text(exports):
  text = "  Marie\tCurie blev  født i Warszawa ."
  (found,) = load(exports["ner"])([text])
  assert found["words"] == text.split()
  # Random weights find something in a text of names.
  texts = [" ".join(s.words) for s in iob.read(tiny_ner.NER / "da-dev.iob2")]
  results = load(exports["ner"])(texts)
  pairs = [
    (text, entity)
    for text, found in zip(texts, results, strict=True)
    for entity in found["entities"]
  ]
  assert pairs
  for whole, entity in pairs:
    assert whole[entity["start"] : entity["end"]] == entity["text"] != ""
    assert entity["text"] == entity["text"].strip()


def test_trees_are_those_of_predict(exports):
  sentences = conllu.read(tiny_ud.UD / "ga-train.conllu.gz")[:40]
  expected = open_pipeline(exports["ud"], engine="jax").annotate(sentences)
  found = load(exports["ud"])([s.column("FORM") for s in sentences])
  names = ("FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL")
  for sentence, columns in zip(expected, found, strict=True):
    assert {*columns} == {name.lower() for name in names}
    for name in names:
      assert sentence.column(name) == [str(x) for x in columns[name.lower()]]


def test_answers_are_those_of_predict(exports):
  questions = squad.read(tiny_qa.QA / "en-dev.json")
  pipeline = open_pipeline(exports["qa"], engine="jax")
  expected = [q.answers[0] for q in pipeline.annotate(questions)]
  found = load(exports["qa"])(
    [{"question": q.text, "context": q.context} for q in questions]
  )
  for answer, own in zip(expected, found, strict=True):
    assert (own["answer"], own["start"]) == (answer.text, answer.start)
    assert own["end"] == answer.stop
    assert own["score"] == pytest.approx(answer.score, abs=2e-6)


def test_vectors_are_those_of_embed(exports):
  texts = served.ITEMS[VECTORS]
  found = load(exports[VECTORS])(texts)
  np.testing.assert_allclose(
    found, time_jax.embed(exports[VECTORS], texts), atol=1e-5
  )


@EACH
@pytest.mark.parametrize("int8", [False, True])
def test_what_is_found_does_not_depend_on_what_is_beside(exports, task, int8):
  items = served.ITEMS[task]
  model = load(exports[task], int8=int8)
  together = model([*items, *items[::-1]])
  alone = [model([item])[0] for item in items]
  assert model([]) == []
  assert without_scores(together) == without_scores([*alone, *alone[::-1]])
  for one, other in zip(alone, together, strict=False):
    np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)


def scores(found):
  """All numbers of a result that are computed."""
  if isinstance(found, list):
    return found
  parts = [found, *found.get("entities", ())]
  return [part["score"] for part in parts if "score" in part]


def without_scores(results):
  """What is found, but for what rounding changes."""
  if isinstance(results, dict):
    return {k: without_scores(x) for k, x in results.items() if k != "score"}
  if isinstance(results, list):
    return [without_scores(x) for x in results]
  return None if isinstance(results, float) else results


def test_a_word_is_where_its_first_token_is():
  for owners, places in (
    ([0, 1, 0], [1]),
    ([0, 1, 1, 1, 2, 0], [1, 4]),
    ([1, 2, 2, 3], [0, 1, 3]),
    ([0, 0, 1, 1, 0, 0], [2]),
  ):
    numbers = np.array(owners, np.int32)
    chunk = Chunk(0, 0, len(places), numbers, numbers)
    assert chunk.first_tokens.tolist() == places


def test_tokens_after_a_text_are_none_of_its_words(copy):
  """Short rows beside long ones, and words of many tokens before short ones."""
  folder = copy("ner")
  path = str(folder / "tokenizer.json")
  tokenizer = tokenizers.Tokenizer.from_file(path)
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="<pad> $A <pad>", special_tokens=[("<pad>", 0)]
  )
  tokenizer.save(path)
  model = load(folder)
  sentences = [["a"], ["Warszawatransport", "a"], ["a", "b", "c", "d"] * 5]
  expected = open_pipeline(folder, engine="jax").annotate(
    [iob.make_sentence(words) for words in sentences]
  )
  found = model(sentences)
  assert [f["tags"] for f in found] == [[*s.tags] for s in expected]


@EACH
def test_nothing_of_jax_is_imported(exports, task):
  program = f"""
import sys
HEAVY = {{"jax", "jaxlib", "flax", "optax", "orbax", "torch", "transformers",
  "tensorflow", "ml_collections", "absl", "scipy", "onnx", "safetensors"}}
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in HEAVY:
      raise ImportError(f"{{name}} is not to be imported")
sys.meta_path.insert(0, Blocker())
from time_jax import serve
print(len(serve.load({str(exports[task])!r})({served.ITEMS[task]!r})))
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.stdout.split() == [str(len(served.ITEMS[task]))], done.stderr


@EACH
@pytest.mark.parametrize("items", ["It works .", None, {"a": 1}, 3])
def test_what_is_no_list_is_told(exports, task, items):
  with pytest.raises(InputError, match="inputs is .*; expected a list of them"):
    load(exports[task])(items)


WRONG = [
  ("ner", 3, "inputs[1] is 3; expected a sentence: a text, or a list of words"),
  ("ner", ["a", " "], "expected words that are not empty"),
  ("ner", ["a", None], "inputs[1] is None; expected a word"),
  ("ud", {"a": 1}, "expected a sentence"),
  ("ud", "a\ud800", "the character 1 of 'a\\ud800' is half of a surrogate"),
  ("ud", "a" * 1_000_001, "has 1,000,001 characters; expected at most 1,000"),
  ("qa", "Who?", 'expected a question: {"question": ..., "context": ...}'),
  ("qa", {"question": 1, "context": ""}, "expected 'question' as a text"),
  (
    "qa",
    {"question": "a " * 200, "context": "b"},
    "question 1: its 200 tokens",
  ),
  ("split", ["a"], "inputs[1] is ['a']; expected a text"),
  (VECTORS, ["a"], "inputs[1] is ['a']; expected a text"),
]


@pytest.mark.parametrize(("task", "item", "message"), WRONG)
def test_wrong_items_are_named(exports, task, item, message):
  model = load(exports[task])
  with pytest.raises(InputError) as caught:
    model([served.ITEMS[task][0], item])
  assert message in str(caught.value)


@EACH
@pytest.mark.parametrize(
  "item", ["\0", "😀", "a\r\nb", "\u200b", "x" * 5000, "٣ ٢", "\ufeff"]
)
def test_odd_text_is_read(exports, task, item):
  item = {"question": item[:40], "context": item} if task == "qa" else item
  (found,) = load(exports[task])([item])
  if "form" in found:
    assert len({len(column) for column in found.values()}) == 1


DAMAGE = [
  ("ner", "onnx/model.onnx", None, "onnx/model.onnx is missing; expected"),
  ("ner", "onnx/model.onnx", b"\0\1", "onnx/model.onnx cannot be opened"),
  ("ud", "onnx/relations.onnx", None, "onnx/relations.onnx is missing"),
  ("ud", "onnx/relations.onnx", b"", "relations.onnx cannot be opened"),
  ("ner", "tokenizer.json", None, "tokenizer.json is missing"),
  ("ner", "tokenizer.json", b"{}", "is not a tokenizer"),
  ("ner", "tokenizer.json", b"\xff", "tokenizer.json cannot be read"),
  ("ner", "config.json", None, "config.json is missing"),
  ("ner", "config.json", b"{}", "vocab_size is None; expected a number"),
  ("qa", "task.json", b"{", "task.json is not readable JSON"),
]


@pytest.mark.parametrize(("task", "name", "content", "message"), DAMAGE)
def test_damage_is_told(copy, task, name, content, message):
  folder = copy(task)
  (folder / name).unlink()
  if content is not None:
    (folder / name).write_bytes(content)
  with pytest.raises(UserError) as caught:
    load(folder)
  assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"task": "pos"}, "is of task 'pos'; expected one of ner, qa, split, ud"),
    ({"task": []}, "task is []; expected a name"),
    ({"classes": {}}, "do not fit each other (KeyError"),
    ({"format": 3}, "is of format 3"),
    ({"buckets": [2]}, "leave no room for words"),
  ],
)
def test_another_task_json_is_told(copy, changes, message):
  folder = copy("ner")
  served.edit(folder / "task.json", **changes)
  with pytest.raises(UserError) as caught:
    load(folder)
  assert message in str(caught.value)


@EACH
def test_weights_that_are_not_finite_are_told(copy, task):
  folder = copy(task)
  path = folder / "onnx" / "model.onnx"
  model = onnx.load(path)
  for weight in model.graph.initializer:
    if weight.name == "layer0.ffn_out.bias":
      array = np.full(weight.dims, np.nan, np.float32)
      weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
  onnx.save(model, path)
  with pytest.raises(UserError, match="computes NaN or infinity, so that its"):
    load(folder)


def test_a_process_that_is_forked_is_told(exports):
  program = f"""
import os
from time_jax import serve
model = serve.load({str(exports["ner"])!r})
if os.fork() == 0:
  try:
    model(["a"])
  except RuntimeError as error:
    print(error, flush=True)
  # Its own takes the place of the one of before, which is not to end there.
  model = serve.load({str(exports["ner"])!r})
  print(model(["a"])[0]["words"], flush=True)
  os._exit(0)  # as multiprocessing does; onnxruntime hangs in any other end
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert "opened before this process was forked" in done.stdout, done.stderr
  assert done.stdout.endswith("['a']\n0\n")


def test_another_folder_is_told(tmp_path):
  with pytest.raises(UserError, match="no folder at .*nothing; expected one"):
    load(tmp_path / "nothing")
  with pytest.raises(UserError, match=r"config.json is missing"):
    load(tmp_path)


def test_an_encoder_needs_a_limit(copy):
  folder = copy(VECTORS)
  served.edit(folder / "config.json", max_position_embeddings=None)
  served.edit(folder / "tokenizer_config.json", model_max_length=10**30)
  with pytest.raises(UserError, match="has no model_max_length"):
    load(folder)


def test_it_ends_where_it_is_told_to(exports):
  class EnoughError(Exception):
    pass

  def beat():
    raise EnoughError

  for task in served.TASKS:
    with pytest.raises(EnoughError):
      load(exports[task])(served.ITEMS[task], beat)


def test_rows_of_similar_lengths_are_computed_together(exports):
  graph = RowGraph(exports[VECTORS] / "onnx" / "model.onnx")
  lengths = [3, 60, 2, 60, *[5] * 900]
  rows = [Row(np.full(n, 7, np.int32)) for n in lengths]
  counts, seen = [], []
  for numbers, outputs in graph.run(rows, ("last_hidden_state",), lambda: None):
    (states,) = outputs.values()
    sizes = [lengths[i] for i in numbers]
    counts.append((len(numbers), max(sizes)))
    seen += numbers
    assert states.shape[:2] == (len(numbers), max(sizes))
  assert sorted(seen) == [*range(len(rows))]
  assert all(count * longest <= 4096 for count, longest in counts)
  assert [n for n, _ in counts[:1]] == [4096 // 60]


def test_the_best_span_is_that_of_jax():
  random = np.random.default_rng(0)
  for count, before in itertools.product((0, 1, 2, 9), (1, 3)):
    length = before + count + 1
    logits = random.normal(scale=3, size=(2, length)).astype(np.float32)
    spans = np.zeros((count, 2), np.int32)
    tokens = np.zeros(length, np.int32)
    window = Window(0, tokens, tokens, before, spans, (0, 0))
    batch = in_jax.SpanExamples([window], 0).fill(
      [[0]], in_jax.Shape(1, length, 1)
    )
    for longest in (1, 4):
      found = of_questions.best_span(logits, window, longest)
      expected = in_jax.best_spans(jnp.asarray(logits[None]), batch, longest)
      first, last, log_p = (float(x[0]) for x in expected)
      assert found[2] == pytest.approx(log_p, abs=1e-5)
      if count:
        assert found[:2] == (first, last)
