"""Words to tokens to batches: nothing is lost, few shapes, same every time."""

import collections
import functools

import jax
import numpy as np
import pytest
import tiny_tokenizers
from meshes import make_mesh

from time_jax.core import notes
from time_jax.core.errors import UserError
from time_jax.evals.common import batches
from time_jax.evals.common.batches import Buckets, Epochs, make_buckets
from time_jax.evals.common.word_network import WordExamples
from time_jax.evals.common.word_tokens import WordTokenizer
from time_jax.hf import tokenizer

TEXT = ["tá an aimsir go maith inniu", "chonaic mé an madra dubh ar an trá"]


@pytest.fixture(scope="module", params=tiny_tokenizers.KINDS)
def spec(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("words")
  kind = tiny_tokenizers.KINDS[request.param]
  backend = kind(TEXT * 3, 300 if "byte" in request.param else 60)
  tiny_tokenizers.save(backend, folder)
  return tokenizer.load_tokenizer(folder, 400)


def test_every_token_belongs_to_its_word(spec):
  sentences = [text.split() for text in TEXT]
  alone = WordTokenizer(spec, 512)
  for chunk, words in zip(alone.chunks(sentences), sentences, strict=True):
    assert chunk.num_words == len(words)
    owners = chunk.word_of_token
    assert owners[0] == owners[-1] == 0  # [CLS] and [SEP]
    inner = owners[1:-1]
    assert sorted(set(inner)) == list(range(1, len(words) + 1))
    assert (np.diff(inner) >= 0).all()
    for i in range(1, len(words)):  # The first word may lack its space.
      (single,) = alone.chunks([["an", words[i]]])
      expected = single.tokens[single.word_of_token == 2]
      assert chunk.tokens[owners == i + 1].tolist() == expected.tolist()


def test_words_that_a_tokenizer_drops_or_cannot_know(spec):
  words = ["\u200b", "漢", " 1 000 ", "[SEP]", "\u3000"]
  (chunk,) = WordTokenizer(spec, 512).chunks([words])
  assert set(chunk.word_of_token) == set(range(6))
  # A word that spells a special token is no end of the text.
  around = chunk.word_of_token == 0
  assert np.count_nonzero(around) == 2
  special = set(chunk.tokens[around])
  assert not special & set(chunk.tokens[~around])


def test_long_sentences_are_read_in_parts_that_fit(spec, capsys):
  notes.note.cache_clear()
  words = (TEXT[1].split() * 4)[:30]
  chunks = WordTokenizer(spec, 16).chunks([["go"], words, ["maith" * 19]])
  assert max(len(chunk.tokens) for chunk in chunks) <= 16
  assert [p.sentence for p in chunks if p.start == 0] == [0, 1, 2]
  parts = [chunk for chunk in chunks if chunk.sentence == 1]
  ends = [chunk.start + chunk.num_words for chunk in parts]
  assert [chunk.start for chunk in parts[1:]] == ends[:-1]
  assert ends[-1] == 30 and len(parts) > 1
  said = capsys.readouterr().err
  assert "1 sentences have more than the 16 tokens" in said
  assert "1 words are cut off" in said
  with pytest.raises(UserError, match="2 tokens leave no room"):
    WordTokenizer(spec, 2)


def some_chunks(spec, count=50):
  random = np.random.default_rng(0)
  words = " ".join(TEXT).split()
  sentences = [
    list(random.choice(words, random.integers(1, 25))) for _ in range(count)
  ]
  chunks = WordTokenizer(spec, 64).chunks(sentences)
  targets = [
    {"N": np.full(chunk.num_words, i, np.int32)}
    for i, chunk in enumerate(chunks)
  ]
  return chunks, targets


def test_an_epoch_has_every_piece_once_and_few_shapes(spec):
  chunks, targets = some_chunks(spec)
  buckets = make_buckets((16, 32, 128), 64, 6, 256, make_mesh(2, 1, 1))
  assert buckets.lengths == (16, 32, 64)
  assert [buckets.rows_of(n) for n in buckets.lengths] == [6, 6, 4]
  examples = WordExamples(chunks, spec.pad_id, targets)
  epochs = Epochs(examples, buckets, seed=3)
  compiled = jax.jit(lambda batch: batch.num_words.sum())
  for epoch in range(3):
    seen = collections.Counter()
    for step in range(epoch * epochs.steps, (epoch + 1) * epochs.steps):
      batch = epochs.batch_at(step)
      compiled(batch)
      for row, count in enumerate(batch.num_words):
        labels = batch.targets["N"][row]
        assert (labels[count:] == -1).all()
        if count:
          (number,) = set(labels[:count])
          seen[number] += 1
          size = len(chunks[number].tokens)
          assert batch.batch.tokens[row, :size].tolist() == (
            chunks[number].tokens.tolist()
          )
    assert seen == collections.Counter(range(len(chunks)))
  assert compiled._cache_size() == len(buckets.split(examples)) > 1


def test_a_batch_depends_on_seed_and_step_alone(spec):
  chunks, targets = some_chunks(spec)
  buckets = Buckets((32, 64), 4, 1024)
  examples = WordExamples(chunks, spec.pad_id, targets)
  make = functools.partial(Epochs, examples, buckets)
  one, again, other = make(1), make(1), make(2)
  steps = list(range(one.steps * 2))
  for step in reversed(steps):
    a, b = one.batch_at(step), again.batch_at(steps[step])
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      np.testing.assert_array_equal(x, y)
  differs = [
    not np.array_equal(one.batch_at(s).batch.tokens.sum(), t)
    for s in steps
    for t in [other.batch_at(s).batch.tokens.sum()]
  ]
  assert any(differs)


def test_all_pieces_in_order_for_prediction(spec):
  chunks, _ = some_chunks(spec)
  examples = WordExamples(chunks, spec.pad_id)
  buckets = Buckets((64,), 8, 512, fewer=(1, 6, 99))
  found = list(batches.in_order(examples, buckets))
  assert sorted(i for chosen, _ in found for i in chosen) == list(
    range(len(chunks))
  )
  *full, (chosen, last) = found
  assert {len(batch.num_words) for _, batch in full} == {8}
  assert len(last.num_words) == (6 if len(chosen) > 1 else 1) < 8
  assert [buckets.rows_of(64, n) for n in (1, 2, 6, 7, 9)] == [1, 6, 6, 8, 8]
  with pytest.raises(UserError, match=r"data\.buckets=\(\)"):
    make_buckets((), 64, 8, 512, make_mesh(1, 1, 1))
