"""Sentences that share rows are read and learnt as if each had its own."""

import functools

import jax
import numpy as np
import pytest
import tiny_ud
from flax.linen import meta

from time_jax.config import finetune
from time_jax.evals.common import batches, encoders
from time_jax.evals.common.batches import Buckets, Shape
from time_jax.evals.common.task import FIRST
from time_jax.evals.ud import annotator, conllu, trees
from time_jax.evals.ud.labels import RELATION
from time_jax.evals.ud.task import Ud
from time_jax.models import stepwise
from time_jax.parallel import sharding


@pytest.fixture(scope="module")
def task(mesh, tmp_path_factory):
  """Of random weights, without dropout; rows of 64 tokens."""
  model = tiny_ud.write_encoder(tmp_path_factory.mktemp("m") / "encoder")
  opened = encoders.open_encoder(str(model), mesh=mesh, dtype="float32")
  config = finetune.ud_config()
  config.train.dropout = 0.0
  config.heads.update(hidden=16, arc=16, relation=8)
  data = {"train": conllu.read(tiny_ud.UD / "ga-train.conllu.gz")}
  return Ud(config, data, opened, Buckets((16, 32, 64), shared=64), mesh)


@pytest.fixture(scope="module")
def params(task):
  fresh = meta.unbox(jax.jit(task.fresh)(jax.random.key(0)))
  # Larger weights: with those of the start, all words get about the same.
  heads = jax.tree.map(lambda leaf: 3 * leaf, fresh["heads"])
  return {"encoder": task.opened.params, "heads": heads}


def one_a_row(examples, length):
  """A batch with each example in a row of its own."""
  count = len(examples.sizes)
  shape = Shape(count, length, length)
  return examples.fill([[i] for i in range(count)], shape)


def by_example(rows, batch, array):
  """The words' part of an array [B, W, ...], for each example."""
  parts = {}
  for row, numbers in enumerate(rows):
    for segment, i in enumerate(numbers, 1):
      parts[i] = array[row][batch.segment_of_word[row] == segment]
  return parts


def test_scores_are_those_of_a_row_for_each(task, params):
  examples = task.examples
  with sharding.use_mesh(task.network.mesh):
    scores = jax.jit(task.network.scores)
    alone = one_a_row(examples, 64)
    rows = [[i] for i in range(len(examples.sizes))]
    expected = {
      name: by_example(rows, alone, np.asarray(logits))
      for name, logits in scores(params, alone).tags.items()
    }
    shared = 0
    for rows, batch in batches.in_rows(examples, task.buckets):
      shared += sum(len(numbers) > 1 for numbers in rows)
      for name, logits in scores(params, batch).tags.items():
        for i, part in by_example(rows, batch, np.asarray(logits)).items():
          error = np.abs(part - expected[name][i]).max()
          assert error <= 1e-5 * max(1, np.abs(part).max())
  assert shared > 5


def test_predictions_are_those_of_one_sentence_at_a_time(task, params):
  sentences = conllu.read(tiny_ud.UD / "ga-dev.conllu.gz")
  params = params | {"encoder": stepwise.unstack(params["encoder"])}
  together = task.network.annotate(params, sentences)
  assert len(task.network.prepare(sentences).batches) < len(sentences) / 2
  for sentence, found in zip(sentences, together, strict=True):
    (alone,) = task.network.annotate(params, [sentence])
    assert conllu.to_text([alone]) == conllu.to_text([found])
  heads = {head for s in together for head in s.column("HEAD")}
  assert len(heads) > 5  # They are trees of many forms.


def test_a_long_sentence_is_its_parts_hung_on_the_first(task, params):
  params = params | {"encoder": stepwise.unstack(params["encoder"])}
  forms = [f"{word}{i % 7}" for i, word in enumerate(["an", "lá"] * 150)]
  chunks = task.network.tokenizer.chunks([forms])
  assert len(chunks) > 4
  (whole,) = task.network.annotate(params, [conllu.make_sentence(forms)])
  heads, relations, root = [], [], 0
  for chunk in chunks:
    own = forms[chunk.start :][: chunk.num_words]
    (part,) = task.network.annotate(params, [conllu.make_sentence(own)])
    found = [int(head) for head in part.column("HEAD")]
    names = part.column("DEPREL")
    if chunk.start:
      names[found.index(0)] = "parataxis"
    else:
      root = found.index(0) + 1
    for head in found:
      heads.append(head + chunk.start if head else root if chunk.start else 0)
    relations += names
  assert whole.column("FORM") == forms
  assert [int(head) for head in whole.column("HEAD")] == heads
  assert whole.column("DEPREL") == relations


def test_loss_and_gradients_are_those_of_a_row_for_each(task, params):
  """The loss is a mean over words, wherever they stand."""
  examples = task.examples
  some = np.flatnonzero(examples.sizes <= 32)[:24]
  alone = examples.fill([[i] for i in some.tolist()], Shape(24, 32, 32))
  epochs = batches.Epochs(
    examples, task.buckets, batch_size=24, max_tokens=9999, epochs=1, seed=0
  )
  shape = Shape(24, 64, 64)
  packed = examples.fill(epochs.packed(some, shape), shape)
  assert (packed.segment_of_word.max(axis=1) > 1).sum() > 5
  rng = jax.random.key(0)
  with sharding.use_mesh(task.network.mesh):
    gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (one, parts), grads = gradient(params, alone, rng)
    (two, others), more = gradient(params, packed, rng)
  np.testing.assert_allclose(one, two, rtol=1e-6)
  assert len(parts) == 7  # The sum, five columns, HEAD.
  for name, value in parts.items():
    np.testing.assert_allclose(value, others[name], rtol=1e-5)
  compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
  jax.tree.map(compare, grads, more)


def test_relations_are_the_biaffine_form(task, params):
  """Those that are scored a few at a time, against the whole array."""
  heads_params = params["heads"]
  rng = np.random.default_rng(0)
  dependents, governors = rng.normal(size=(2, 3, 7, 8)).astype(np.float32)
  heads = rng.integers(0, 7, (3, 7))
  scores = annotator.Scores({}, None, dependents, governors)
  found = task.network.heads.apply(
    {"params": heads_params}, scores, heads, method="relations"
  )
  chosen = np.take_along_axis(governors, heads[..., None], axis=1)
  pairs, single = jax.device_get(
    (heads_params["pairs"], heads_params["singles"])
  )
  expected = np.einsum("bwk,ckl,bwl->bwc", dependents, pairs, chosen)
  both = np.concatenate([dependents, chosen], axis=-1)
  expected += both @ single["kernel"] + single["bias"]
  assert found.shape[-1] % 8  # The last few are fewer.
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_no_array_of_words_and_relations_and_width(task, params):
  """Neither for the scores nor for their gradient."""
  words, classes = 512, len(task.network.classes[RELATION])
  shapes = annotator.Scores(
    {},
    None,
    jax.ShapeDtypeStruct((1, words, 8), np.float32),
    jax.ShapeDtypeStruct((1, words + 1, 8), np.float32),
  )

  def total(heads_params, scores, heads):
    logits = task.network.heads.apply(
      {"params": heads_params}, scores, heads, method="relations"
    )
    return logits.sum()

  heads = jax.ShapeDtypeStruct((1, words), np.int32)
  compiled = jax.jit(jax.grad(total)).lower(params["heads"], shapes, heads)
  temporary = compiled.compile().memory_analysis().temp_size_in_bytes
  assert classes > 24
  assert temporary < 4 * words * classes * 8 * 3 / 4


def test_the_next_batch_is_started_before_trees_are_searched(
  task, params, monkeypatch
):
  """And relations come with the results of the next batch."""
  sentences = conllu.read(tiny_ud.UD / "ga-train.conllu.gz")
  monkeypatch.setattr(batches, "_PLACES", 1024)
  work, events = task.network.prepare(sentences), []
  assert len(work.batches) > 2
  engine, search = task.network.engine(params), trees.search_trees

  class Recorded:
    def start(self, program, *inputs):
      events.append(program)
      return engine.start(program, *inputs)

  def searched(*arguments):
    events.append("trees")
    return search(*arguments)

  monkeypatch.setattr(trees, "search_trees", searched)
  task.network.finish(Recorded(), work, lambda: None)
  middle = [FIRST, "trees", RELATION] * (len(work.batches) - 1)
  assert events == [FIRST, *middle, "trees", RELATION]
