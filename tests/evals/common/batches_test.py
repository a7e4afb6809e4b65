"""Words to tokens to batches: nothing is lost, few shapes, same every time."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest
from meshes import make_mesh
from words import TEXT

from time_jax.core import notes
from time_jax.core.errors import UserError
from time_jax.evals.common import batches, packing
from time_jax.evals.common.batches import Buckets, Epochs, make_buckets
from time_jax.evals.common.word_network import WordExamples
from time_jax.evals.common.word_tokens import WordTokenizer


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
  assert "sentences of more than the 16 tokens" in said
  assert "words of more than 14 tokens" in said
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


def check_row(batch, row, numbers, chunks):
  """The row holds these chunks, each with its words and nothing else."""
  inside = batch.batch
  for segment, i in enumerate(numbers, 1):
    chunk = chunks[i]
    own = inside.segment_ids[row] == segment
    assert inside.tokens[row][own].tolist() == chunk.tokens.tolist()
    assert inside.positions[row][own].tolist() == [*range(len(chunk.tokens))]
    words = np.flatnonzero(batch.segment_of_word[row] == segment)
    assert len(words) == chunk.num_words
    owner = batch.word_of_token[row][own]
    expected = np.where(
      chunk.word_of_token > 0, chunk.word_of_token + words[0], 0
    )
    assert owner.tolist() == expected.tolist()
  assert inside.segment_ids[row].max() == len(numbers)
  assert batch.segment_of_word[row].max() == len(numbers)


def numbers_of(batch, row):
  """The chunks of a row, by the labels of `some_chunks`."""
  labels = batch.targets["N"][row]
  real = batch.segment_of_word[row] > 0
  assert (labels[~real] == -1).all()
  return [*dict.fromkeys(labels[real].tolist())]


def test_an_epoch_has_every_chunk_once_and_few_shapes(spec):
  chunks, targets = some_chunks(spec)
  buckets = make_buckets((16, 32, 128), 64, make_mesh(2, 1, 1))
  assert buckets.lengths == (16, 32, 64)
  buckets = dataclasses.replace(buckets, shared=16)
  examples = WordExamples(chunks, spec.pad_id, targets)
  epochs = Epochs(
    examples, buckets, batch_size=5, max_tokens=256, epochs=3, seed=3
  )
  most = {16: 6, 32: 6, 64: 4}
  compiled = jax.jit(lambda batch: batch.segment_of_word.sum())
  shared = 0
  for epoch in range(3):
    seen = collections.Counter()
    for step in range(epoch * epochs.steps, (epoch + 1) * epochs.steps):
      batch = epochs.batch_at(step)
      compiled(batch)
      assert len(batch.word_of_token) % 2 == 0
      in_batch = []
      for row in range(len(batch.word_of_token)):
        numbers = numbers_of(batch, row)
        check_row(batch, row, numbers, chunks)
        shared += len(numbers) > 1
        in_batch += numbers
      lengths = {buckets.row_length(len(chunks[i].tokens)) for i in in_batch}
      assert len(lengths) == 1
      assert len(in_batch) <= most[lengths.pop()]
      seen.update(in_batch)
    assert seen == collections.Counter(range(len(chunks)))
  assert shared
  assert 1 < compiled._cache_size() == len(buckets.split(examples))


def test_batches_of_a_bucket_are_of_one_size(spec):
  """Each has one example of every stratum, whatever the epoch."""
  chunks, targets = some_chunks(spec, 31)
  examples = WordExamples(chunks, spec.pad_id, targets)
  epochs = Epochs(
    examples, Buckets((64,)), batch_size=8, max_tokens=1024, epochs=2, seed=0
  )
  sizes = np.sort(examples.sizes)
  starts = range(0, len(sizes), epochs.steps)
  strata = [sizes[i : i + epochs.steps] for i in starts]
  assert epochs.steps > 1 and len(strata) > 6
  together = set()
  for step in range(2 * epochs.steps):
    batch = epochs.batch_at(step)
    rows = range(len(batch.word_of_token))
    numbers = [i for row in rows for i in numbers_of(batch, row)]
    for size, stratum in zip(
      np.sort(examples.sizes[numbers]), strata, strict=False
    ):
      assert stratum[0] <= size <= stratum[-1]
    assert len(numbers) >= len(strata) - 1
    together.add(tuple(sorted(numbers)))
  assert len(together) > epochs.steps  # They are mixed again in each epoch.


def test_a_batch_depends_on_seed_and_step_alone(spec):
  chunks, targets = some_chunks(spec)
  buckets = Buckets((32, 64))
  examples = WordExamples(chunks, spec.pad_id, targets)
  make = functools.partial(
    Epochs, examples, buckets, batch_size=4, max_tokens=1024, epochs=2
  )
  one, again, other = make(seed=1), make(seed=1), make(seed=2)
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


def test_heads_are_columns_of_the_row(spec):
  chunks, _ = some_chunks(spec, 3)
  heads = [np.arange(chunk.num_words) for chunk in chunks]
  targets = [{"HEAD": head, "UPOS": head} for head in heads]
  examples = WordExamples(chunks, 0, targets, columns=("HEAD",))
  batch = examples.fill([[2, 0, 1]], batches.Shape(1, 256, 128))
  start = 0
  for i in (2, 0, 1):
    words = slice(start, start + len(heads[i]))
    expected = [0, *(heads[i][1:] + start)]
    assert batch.targets["HEAD"][0, words].tolist() == expected
    assert batch.targets["UPOS"][0, words].tolist() == heads[i].tolist()
    start = words.stop
  assert (batch.targets["HEAD"][0, start:] == -1).all()


def test_all_chunks_once_for_prediction(spec):
  chunks, targets = some_chunks(spec, 500)
  examples = WordExamples(chunks, spec.pad_id, targets)
  buckets = Buckets((16, 32, 64, 128))
  seen, shapes, places = collections.Counter(), set(), 0
  for rows, batch in batches.in_rows(examples, buckets):
    shapes.add((batch.word_of_token.shape, batch.segment_of_word.shape))
    places += batch.word_of_token.size
    for row in range(len(batch.word_of_token)):
      numbers = [*rows[row]] if row < len(rows) else []
      assert numbers_of(batch, row) == numbers
      check_row(batch, row, numbers, chunks)
      seen.update(numbers)
  assert seen == collections.Counter(range(len(chunks)))
  assert len(shapes) < 6
  assert examples.sizes.sum() > 0.9 * places


def test_batches_are_not_mostly_empty():
  needed = (1, 2, 3, 4, 9, 15, 16, 32, 99)
  rows = [batches.rows_at_once(128, n) for n in needed]
  assert rows == [1, 1, 1, 1, 8, 8, 8, 32, 32]
  assert [batches.rows_at_once(512, n) for n in needed[:5]] == [1, 1, 1, 1, 8]
  assert batches.rows_at_once(1 << 20, 5) == 1


def test_one_sentence_is_one_short_row(spec):
  chunks, _ = some_chunks(spec, 1)
  examples = WordExamples(chunks, spec.pad_id)
  buckets = Buckets((64, 256))
  ((rows, batch),) = batches.in_rows(examples, buckets)
  assert rows == [[0]]
  shape = batch.word_of_token.shape
  assert shape == batch.segment_of_word.shape == (1, 64)
  empty = WordExamples([], spec.pad_id)
  assert list(batches.in_rows(empty, buckets)) == []


def test_no_buckets_are_refused():
  with pytest.raises(UserError, match=r"data\.buckets=\(\)"):
    make_buckets((), 64, make_mesh(1, 1, 1))


def test_rows_are_packed_by_tokens_and_words():
  sizes, words = np.array([5, 9, 3, 7, 2]), np.array([5, 1, 3, 7, 1])
  rows = packing.pack(sizes, words, lambda size, count: (10, max(6, count)))
  assert [row.numbers for row in rows] == [[1], [3], [0, 4], [2]]
  assert [row.words for row in rows] == [6, 7, 6, 6]
